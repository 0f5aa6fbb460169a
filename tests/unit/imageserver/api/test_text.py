"""The text form of an answer, which curl reads."""

from __future__ import annotations

from imageserver.api import problems, text
from imageserver.api.problems import Problem
from imageserver.api.schema import MovedChannel, Multipart, PartPlan, Signed, Single, Withdrawn

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"


def test_the_text_form_of_a_single_upload_is_a_curl_config() -> None:
    headers = {
        "Content-Length": "5",
        "Content-Type": "application/octet-stream",
        "Cache-Control": "public, max-age=31536000, immutable",
        "If-Match": '"abc"',
    }
    upload = Single(path=f"{PATH}/disk.qcow2", size=5, url="https://b/k?x=%3A", headers=headers, expires_at="then")
    assert text.render(upload) == (
        f"# upload single 5 {PATH}/disk.qcow2\n"
        "# expires then\n"
        'request = "PUT"\n'
        'url = "https://b/k?x=%3A"\n'
        'header = "Content-Type: application/octet-stream"\n'
        'header = "Cache-Control: public, max-age=31536000, immutable"\n'
        'header = "If-Match: \\"abc\\""\n'
    )


def test_the_text_form_of_a_multipart_upload_lists_the_uploaded_parts() -> None:
    upload = Multipart(
        path=f"{PATH}/disk.qcow2",
        size=7,
        upload_id="id",
        part_size=4,
        parts=[
            PartPlan(number=1, offset=0, size=4, etag='"e1"'),
            PartPlan(number=2, offset=4, size=3, url="https://b/2"),
        ],
        complete=Signed(method="POST", url="https://b/c", headers={"If-None-Match": "*"}),
        abort=Signed(method="DELETE", url="https://b/a", headers={}),
        expires_at="then",
    )
    assert text.render(upload) == (
        f"# upload multipart 7 {PATH}/disk.qcow2\n# expires then\n# upload-id id\n"
        '# part 1 0 4 "e1"\n# part 2 4 3\nurl = "https://b/2"\n'
        '# complete\nrequest = "POST"\nurl = "https://b/c"\nheader = "If-None-Match: *"\n'
        '# abort\nrequest = "DELETE"\nurl = "https://b/a"\n'
    )


def test_the_text_form_of_a_withdrawal_has_a_line_for_each_channel_that_moved() -> None:
    product, version = PATH.rsplit("/", 1)
    moved = [
        MovedChannel(channel="fresh", product=product, before=version, after="20261122_10:00"),
        MovedChannel(channel="stable", product=product, before=version, after=""),
    ]
    answer = Withdrawn(path=PATH, versions=[PATH], files=[], delete_after="then", channels=moved)
    assert text.render(answer) == (
        f"version {PATH}\ndelete-after then\n"
        "channel fresh 20261123_10:00 20261122_10:00\nchannel stable 20261123_10:00 -\n"
    )


def test_line_breaks_in_a_reason_are_removed_from_the_text_form() -> None:
    problem = Problem(problems.INVALID, "a\nproblem forbidden\n b")
    assert problem.text() == "problem invalid\ndetail a problem forbidden b\n"
    several = Problem(problems.INVALID, "first (1 more)", refusals=[{"detail": "first"}, {"detail": "second"}])
    assert several.text() == "problem invalid\ndetail first\ndetail second\n"
