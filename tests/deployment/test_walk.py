"""Which blocks belong to the walk of a page, and how they run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import PROJECT, images
from tests.support.ministack import emulator
from tests.support.ministack.clone import copied
from tests.support.ministack.server import Server
from tests.support.ministack.walk import Block, Terminal, WalkFailed, blocks
from tests.support.processes import short_folder

pytestmark = [pytest.mark.xdist_group("ministack"), pytest.mark.timeout(900)]
PAGE = """\
# Deploy

```sh walk
cd below
export WHO=me
```

What nobody runs in a test:

```sh
## no heading
sam delete
```

## Look

1. It ends with 3:

   ```sh walk=3
   exit 3
   ```

```sh walk
echo "$WHO in $(basename "$PWD")"
```
"""


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    (tmp_path / "clone" / "below").mkdir(parents=True)
    (tmp_path / "state").mkdir()
    return Terminal(tmp_path / "clone", dict(os.environ), tmp_path / "state", answers="y\n")


def test_the_marked_blocks_are_found_in_their_order() -> None:
    found = [(block.heading, block.line, block.code) for block in blocks(PAGE)]
    assert found == [("Deploy", 3, 0), ("Look", 19, 3), ("Look", 23, 0)]
    assert next(iter(blocks(PAGE))).commands == "cd below\nexport WHO=me\n"


def test_a_block_without_an_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="begins in line 1 has no end"):
        list(blocks("```sh walk\nls\n"))


def test_a_block_finds_the_folder_and_the_variables_of_the_one_before(terminal: Terminal) -> None:
    outputs = [terminal.run(block) for block in blocks(PAGE)]
    assert outputs == ["", "", "me in below\n"]


def test_a_block_ends_at_its_first_failure_and_names_the_line(terminal: Terminal) -> None:
    with pytest.raises(WalkFailed, match=r"(?s)Deploy \(line 7\): exit 1, expected 0.*before"):
        terminal.run(Block("Deploy", 7, "echo before\nfalse | cat\nfalse\necho behind\n"))
    with pytest.raises(WalkFailed, match="exit 0, expected 1"):
        terminal.run(Block("Deploy", 7, "true\n", code=1))


def test_a_page_is_walked_from_its_first_block_to_its_last(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    assert terminal.walk(tmp_path / "page.md")[-1] == "me in below\n"
    (tmp_path / "page.md").write_text("```sh\nls\n```\n")
    with pytest.raises(ValueError, match="no block that is marked"):
        terminal.walk(tmp_path / "page.md")


def test_a_hook_runs_before_the_first_block_of_a_heading(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    seen: list[str] = []
    assert terminal.walk(tmp_path / "page.md", before={"Look": lambda: seen.append("once")})
    assert seen == ["once"]
    with pytest.raises(ValueError, match="below Elsewhere"):
        terminal.walk(tmp_path / "page.md", before={"Elsewhere": lambda: None})


def test_a_command_that_asks_a_question_gets_its_answer(terminal: Terminal) -> None:
    assert terminal.run(Block("Deploy", 1, 'read -r reply; echo "$reply"\n')) == "y\n"


def test_an_example_value_is_replaced_as_a_reader_does(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```sh walk\necho Z0123\n```\n")
    assert terminal.walk(tmp_path / "page.md", {"Z0123": "ZMINE"}) == ["ZMINE\n"]
    with pytest.raises(ValueError, match="does not have the example 'Z4567'"):
        terminal.walk(tmp_path / "page.md", {"Z4567": "ZMINE"})


WALK = PROJECT / "infra" / "README.md"
ZONE = "Z0123456789ABCDEFGHIJ"
VERSION = "images/kept/1/amd64/default/20261121_10:00"


@pytest.mark.timeout(2400)
def test_the_walk_through_the_deployment_page_succeeds(tooling: None) -> None:
    """Word for word and in order, in an account that owns example.org, from a clone without any build."""
    with short_folder() as folder, emulator.running(folder) as aws:
        zone = aws.client("route53").create_hosted_zone(Name="example.org", CallerReference="walk")["HostedZone"]["Id"]
        clone = copied(folder / "clone", aws)
        files = images.split_image(seed="kept")
        fingerprint = images.sha256_hex(files["lxd.tar.xz"], files["rootfs.squashfs"])

        def publish() -> None:
            server = Server(clone, "simplestreams")
            for name, body in files.items():
                key = f"{VERSION}/{name}"
                aws.client("s3").put_object(Bucket=server.outputs["BucketName"], Key=key, Body=body)
            server.wait(lambda: server.listed(VERSION) == {VERSION: fingerprint} or None, "an image to keep")

        own, before = {ZONE: zone.rpartition("/")[2]}, {"Take it down": publish}
        clone.terminal().walk(WALK, own, before)
        server = Server(clone, "simplestreams")
        server.wait(lambda: server.listed(VERSION) == {VERSION: fingerprint} or None, "the kept image")
        assert server.outputs["Address"] == "https://images.example.org"
        assert aws.names.refused == []
