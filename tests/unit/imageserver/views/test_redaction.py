"""No token stays in an access log, however a client spelled it, and nothing else changes."""

from __future__ import annotations

import gzip
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageserver.access_logs.compressed import DamagedLog
from imageserver.access_logs.entries import Parser
from imageserver.access_logs.statistics import Statistics
from imageserver.views.redaction import redacted
from imageserver.views.tokens import RANDOM_BYTES, token_text
from tests.support.edge_logs import CHOSEN, LEGACY, PRODUCT, ROOT, line, log

TOKEN = token_text(bytes(range(100, 100 + RANDOM_BYTES)))
OTHER = token_text(bytes(RANDOM_BYTES))
LABEL = "token-"


def clean(body: bytes) -> str:
    """Return the text of a log after redaction. The log must contain a token."""
    found = redacted([body])
    assert found is not None
    return gzip.decompress(found).decode()


def escaped(text: str, seed: int, times: int = 1) -> str:
    """Percent-encode characters chosen by the seed, and encode the percent signs again this many times."""
    chosen = random.Random(seed)
    codes = (f"%{ord(one):02x}" if chosen.random() < 0.5 else f"%{ord(one):02X}" for one in text)
    spelled = [code if chosen.random() < 0.5 else one for one, code in zip(text, codes, strict=True)]
    return "".join(spelled).replace("%", f"%{'25' * (times - 1)}")


@pytest.mark.parametrize("fields", [LEGACY, CHOSEN], ids=["legacy", "version 2"])
@pytest.mark.parametrize(
    "path",
    [
        f"/{TOKEN}/{ROOT}",
        f"//{TOKEN}//{ROOT}",
        f"/{TOKEN}/{TOKEN}/{ROOT}",
        f"/{TOKEN}/streams/v1/index.json",
        f"/{TOKEN}/signed/{'m' * 22}/{ROOT}",
        f"/{TOKEN}",
        f"/stable/{TOKEN}",
        f"/{TOKEN.replace('_', '%5F')}/{ROOT}",
        f"/{TOKEN.replace('_', '%255f')}/{ROOT}",
        f"/{escaped(TOKEN, 3)}/{ROOT}",
        f"/{TOKEN}x/{ROOT}",
        f"/{TOKEN[:-1]}/{ROOT}",
    ],
)
def test_a_token_in_a_path_becomes_a_label(fields: list[str], path: str) -> None:
    text = clean(log([line(fields, cs_uri_stem=path), line(fields)], fields))
    assert "sst" not in text
    assert TOKEN[10:20] not in text
    assert f"/{LABEL}" in text
    assert f"\t/{ROOT}\t" in text, "the other line is as it was"


@pytest.mark.parametrize("field", ["cs(Referer)", "cs-uri-query", "cs(Cookie)", "cs(User-Agent)"])
def test_a_token_in_any_other_field_becomes_a_label(field: str) -> None:
    values = {field: f"https://images.example.org/{TOKEN}/"}
    text = clean(log(["\t".join(values.get(name, "-") for name in LEGACY).encode()]))
    assert "sst_" not in text
    assert f"https://images.example.org/{LABEL}" in text


def test_equal_tokens_have_equal_labels_and_others_have_others() -> None:
    text = clean(log([line(cs_uri_stem=f"/{one}/{ROOT}") for one in (TOKEN, escaped(TOKEN, 1), OTHER)]))
    first, again, other = (part.split("/")[0] for part in text.split(f"/{LABEL}")[1:])
    assert first == again != other
    assert len(first) == 8


@pytest.mark.parametrize("stray", ["%20", "%2520", "%0A", "%0d%0a", "%E2%80%8B", "%25E2%2580%258b", "%00"])
def test_a_token_that_was_copied_with_a_space_or_a_line_end_in_it_is_the_same_token(stray: str) -> None:
    paths = [f"/{TOKEN}/{ROOT}", *(f"/{TOKEN[:at]}{stray}{TOKEN[at:]}/{ROOT}" for at in (4, 12, 20, 35))]
    text = clean(log([line(cs_uri_stem=path) for path in paths]))
    assert len({part.split("/")[0] for part in text.split(f"/{LABEL}")[1:]}) == 1
    assert text.count(f"/{ROOT}\t") == len(paths)
    assert not [part for part in (TOKEN[4:12], TOKEN[12:20], TOKEN[20:]) if part in text]


def test_a_token_that_is_escaped_thousands_of_times_takes_no_longer_than_its_length() -> None:
    path = f"/{TOKEN[:-1]}%{'25' * 30_000}{ord(TOKEN[-1]):x}/{ROOT}"
    body = log([line(cs_uri_stem=path)] * 40 + [line(cs_uri_stem=f"/{TOKEN}/{ROOT}")])
    began = time.process_time()
    text = clean(body)
    assert time.process_time() - began < 5
    assert len({part.split("/")[0] for part in text.split(f"/{LABEL}")[1:]}) == 1, "it is the same token"


def test_a_log_without_a_token_is_not_rewritten() -> None:
    assert (
        redacted([log([line(), line(cs_uri_stem="/sst_notes/x"), line(cs_uri_stem="/stable/streams/v1/index.json")])])
        is None
    )


def test_a_redacted_log_has_the_statistics_of_the_original() -> None:
    body = log([line(cs_uri_stem=f"/{TOKEN}/{ROOT}"), line(cs_uri_stem=f"/{OTHER}/signed/{'m' * 22}/{ROOT}"), line()])
    found = redacted([body])
    assert found is not None
    counts = [Statistics(), Statistics()]
    for count, chunks in zip(counts, ([body], [found]), strict=True):
        count.read("edge/x.gz", chunks, Parser())
    assert repr(counts[0].versions) == repr(counts[1].versions)
    assert counts[1].versions[ROOT.rpartition("/")[0]].downloads == 3


@pytest.mark.parametrize("body", [b"no gzip", log([line()])[:-9]], ids=["no gzip", "cut short"])
def test_a_damaged_log_is_not_taken_for_one_without_tokens(body: bytes) -> None:
    with pytest.raises(DamagedLog):
        redacted([body])


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["", TOKEN, OTHER]), st.integers(0, 99), st.integers(1, 3)), max_size=20),
    chunk=st.integers(1, 300), fields=st.sampled_from([LEGACY, CHOSEN]),
)  # fmt: skip
def test_no_token_survives_redaction_of_any_log_and_a_second_redaction_changes_nothing(
    rows: list[tuple[str, int, int]], chunk: int, fields: list[str]
) -> None:
    paths = [f"/{escaped(secret, seed, times)}/{PRODUCT}/{seed}" for secret, seed, times in rows]
    body = log([line(fields, cs_uri_stem=path) for path in paths], fields)
    found = redacted(body[at : at + chunk] for at in range(0, len(body), chunk))
    assert (found is None) == (not any(secret for secret, _, _ in rows))
    if found is not None:
        text = gzip.decompress(found).decode()
        assert text.count(LABEL) == sum(1 for secret, _, _ in rows if secret)
        assert redacted([found]) is None
        kept = [path for path, (secret, _, _) in zip(paths, rows, strict=True) if not secret]
        assert all(f"\t{path}\t" in text for path in kept)
