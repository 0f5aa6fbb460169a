import pytest

from imageserver.format.wording import counted, escaped, quoted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("möbel", "'möbel'"),
        ("o\u0308 it's", '"o\u0308 it\'s"'),
        ("デビアン", "'デビアン'"),
        ("дом", "'дом'"),
        ("", "''"),
        ("a\\b", r"'a\\b'"),
        ("nobl\u0435", r"'nobl\u0435'"),
        ("\uff41bc", r"'\uff41bc'"),
        ("\uff12\uff10", r"'\uff12\uff10'"),
        ("a\x1b[2J\u202e\u200b\ud800", r"'a\x1b[2J\u202e\u200b\ud800'"),
        ("a" * 201, f"'{'a' * 200}…'"),
    ],
)
def test_text_is_quoted_as_typed_and_invisible_characters_are_escaped(text: str, shown: str) -> None:
    assert quoted(text) == shown


def test_a_text_is_cut_at_the_given_length() -> None:
    assert quoted("Straße", 4) == "'Stra…'"
    assert escaped("a\x1bß", 2) == r"a\x1b…"


@pytest.mark.parametrize(
    ("count", "what", "text"),
    [(0, "file", "0 files"), (1, "file", "1 file"), (2, "mismatch", "2 mismatches"), (1200, "file", "1,200 files")],
)
def test_one_is_counted_in_the_singular(count: int, what: str, text: str) -> None:
    assert counted(count, what) == text
