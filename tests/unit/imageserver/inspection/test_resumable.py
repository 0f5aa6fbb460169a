"""A sha256 continued from its saved state equals that of all bytes."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys

import pytest

from imageserver.inspection import resumable
from imageserver.inspection.resumable import NotResumable, ResumableSha256, is_resumable
from tests.support import PROJECT

BODY = random.Random(1).randbytes(10_000)
LENGTHS = (0, 1, 55, 56, 63, 64, 65, 127, 128, 9_999, 10_000)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_digest_equals_that_of_hashlib(length: int) -> None:
    digest = ResumableSha256()
    digest.update(BODY[:length])
    assert digest.hexdigest() == hashlib.sha256(BODY[:length]).hexdigest()


@pytest.mark.parametrize("saved_at", [0, 64, 128, 640, 9_984])
@pytest.mark.parametrize("length", [9_984, 10_000])
def test_a_digest_is_continued_from_its_state(saved_at: int, length: int) -> None:
    first = ResumableSha256()
    first.update(bytearray(BODY[:saved_at]))
    second = ResumableSha256(first.state)
    second.update(BODY[saved_at:length])
    assert second.hexdigest() == hashlib.sha256(BODY[:length]).hexdigest()
    assert first.hexdigest() == hashlib.sha256(BODY[:saved_at]).hexdigest()


def test_a_digest_can_be_read_and_then_continued() -> None:
    digest = ResumableSha256()
    for start in range(0, len(BODY), 1_000):
        digest.update(BODY[start : start + 1_000])
        assert digest.hexdigest() == hashlib.sha256(BODY[: start + 1_000]).hexdigest()


def test_only_whole_blocks_have_a_state() -> None:
    digest = ResumableSha256()
    digest.update(b"x" * 65)
    assert digest.state == ""
    digest.update(b"x" * 63)
    assert digest.state.endswith(":128")


def test_a_state_is_the_intermediate_hash_of_fips_180_4() -> None:
    """Without any bytes it is the initial hash value of section 5.3.3, whatever the byte order of the machine."""
    initial = "6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19"
    assert ResumableSha256().state == f"{initial}:0"


def test_more_than_half_a_gigabyte_is_counted_in_both_words() -> None:
    """The number of bits takes more than 32 bits from 512 MiB on."""
    chunk, whole = bytes(64 << 20), hashlib.sha256()
    digest = ResumableSha256()
    for _ in range(9):
        digest = ResumableSha256(digest.state)
        digest.update(chunk)
        whole.update(chunk)
    assert digest.hexdigest() == whole.hexdigest()


def test_another_process_continues_a_digest() -> None:
    digest = ResumableSha256()
    digest.update(BODY[:6_400])
    program = (
        "import sys\nfrom imageserver.inspection.resumable import ResumableSha256\n"
        "digest = ResumableSha256(sys.argv[1])\ndigest.update(sys.stdin.buffer.read())\nprint(digest.hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, digest.state],
        input=BODY[6_400:], capture_output=True, check=True, cwd=PROJECT / "functions",
    )  # fmt: skip
    assert done.stdout.decode().strip() == hashlib.sha256(BODY).hexdigest()


def test_a_library_with_an_unexpected_hash_state_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "_EXAMPLE", b"not whole blocks")
    resumable._library.cache_clear()
    try:
        assert not is_resumable()
        with pytest.raises(NotResumable, match="SHA256_Init"):
            ResumableSha256()
    finally:
        monkeypatch.undo()
        resumable._library.cache_clear()
    assert is_resumable()
