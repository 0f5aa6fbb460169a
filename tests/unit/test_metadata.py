"""The small files: what is taken, what is ignored alone, what is refused."""

import json

import pytest

from imageserver.errors import InvalidUpload
from imageserver.format.keys import parse_product
from imageserver.inspection.metadata import (
    MAX_YAML_BYTES,
    Overrides,
    check_metadata_yaml,
    parse_checksums,
    parse_image_yaml,
    parse_metadata_json,
)

NOBLE = parse_product("images/ubuntu/noble/amd64/default")


def test_every_known_key_of_metadata_json_is_read() -> None:
    document = {
        "os": "Ubuntu", "release_title": "24.04 LTS", "release_codename": "Noble Numbat", "variant": "server",
        "version": "24.04", "label": "release", "aliases": ["n", "lts"], "requirements": {"secureboot": "false"},
        "supported": True, "support_eol": "2029-05-31", "retain_versions": 3, "retain_days": 0,
    }  # fmt: skip
    parsed = parse_metadata_json(json.dumps(document).encode())
    assert parsed.ignored == ()
    assert parsed.overrides == Overrides(**document | {"aliases": ("n", "lts")})  # type: ignore[arg-type]


@pytest.mark.parametrize("aliases", ["a,b", " a , b ", ["a", "b"], ["a", " b "], "a,b,a"])
def test_aliases_are_a_list_or_a_comma_joined_string_and_trimmed(aliases: object) -> None:
    assert parse_metadata_json(json.dumps({"aliases": aliases}).encode()).overrides.aliases == ("a", "b")


@pytest.mark.parametrize(
    ("document", "about"),
    [
        ({"os": 5}, "os is 5, expected a text"),
        ({"os": ""}, "os is ''"),
        ({"os": "a\nb"}, "os is 'a\\nb'"),
        ({"os": "x" * 201}, "expected a text of 1 to 200"),
        ({"aliases": {"a": 1}}, "aliases is"),
        ({"aliases": "a b"}, "the alias 'a b' is ignored"),
        ({"aliases": ["", "a"]}, "the alias '' is ignored"),
        ({"requirements": ["a"]}, "requirements is"),
        ({"requirements": {"a": {"b": 1}}}, "the requirement 'a' is {'b': 1}"),
        ({"supported": "yes"}, "supported is 'yes', expected true or false"),
        ({"support_eol": "2026-02-30"}, "support_eol is '2026-02-30', expected a real date"),
        ({"support_eol": "31.12.2026"}, "expected a real date as YYYY-MM-DD"),
        ({"retain_days": -1}, "retain_days is -1"),
        ({"flavour": "x"}, "the key 'flavour' has no meaning here"),
    ],
)
def test_an_invalid_override_is_ignored_alone_and_reported(document: dict[str, object], about: str) -> None:
    parsed = parse_metadata_json(json.dumps(document | {"release_title": "kept"}).encode())
    assert parsed.overrides.release_title == "kept"
    assert len(parsed.ignored) == 1
    assert about in parsed.ignored[0]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_an_invalid_metadata_json_is_ignored_as_a_whole(body: bytes) -> None:
    parsed = parse_metadata_json(body)
    assert parsed.overrides == Overrides()
    assert parsed.ignored


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (False, "false"), (5, "5"), ("x", "x")])
def test_requirement_values_become_strings(value: object, text: str) -> None:
    parsed = parse_metadata_json(json.dumps({"requirements": {"secureboot": value}}).encode())
    assert parsed.overrides.requirements == {"secureboot": text}


def test_a_requirement_of_thousands_of_digits_is_ignored() -> None:
    parsed = parse_image_yaml(b"simplestream: {requirements: {a: 0x" + b"f" * 4000 + b"}}", NOBLE)
    assert (parsed.overrides, len(parsed.ignored)) == (Overrides(), 1)


def test_image_yaml_as_imagebuilder_writes_it() -> None:
    body = b"""
image: {distribution: ubuntu}
simplestream:
  distro_name: Ubuntu
  release_aliases: {noble: "24.04, lts", jammy: "22.04"}
  requirements:
    - requirements: {secureboot: false}
    - requirements: {cgroup: v2}
      releases: [jammy]
"""
    parsed = parse_image_yaml(body, NOBLE)
    assert parsed.ignored == ()
    assert parsed.overrides == Overrides(
        os="Ubuntu",
        aliases=("ubuntu/24.04/default", "ubuntu/24.04", "ubuntu/lts/default", "ubuntu/lts"),
        requirements={"secureboot": "false"},
    )


@pytest.mark.parametrize(
    "body",
    [b"a: [", b"\x00", b"simplestream: 5", b"- a", b"a: &x [1]\nb: *x", b"[" * 5000, b"%TAG ! x"]
    + [b"simplestream: {distro_name: " + value + b"}" for value in (b"!!bool x", b"!!int ''", b"0x" + b"f" * 4000)],
)
def test_an_invalid_image_yaml_overrides_nothing(body: bytes) -> None:
    assert parse_image_yaml(body, NOBLE).overrides == Overrides()


def test_metadata_json_takes_precedence_over_image_yaml() -> None:
    weaker = Overrides(os="Yaml", label="kept", aliases=("b",))
    assert Overrides(os="Json", aliases=("a",)).over(weaker) == Overrides(os="Json", label="kept", aliases=("a", "b"))


@pytest.mark.parametrize("arch", ["x86_64", "amd64"])
def test_metadata_yaml_must_name_the_architecture_of_its_folder(arch: str) -> None:
    assert check_metadata_yaml(f"architecture: {arch}\ncreation_date: 1".encode(), "amd64") == ()


def test_a_missing_creation_date_is_a_warning() -> None:
    (warning,) = check_metadata_yaml(b"architecture: x86_64", "amd64")
    assert "creation_date" in warning


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"architecture: aarch64", "says `architecture: aarch64`, expected x86_64 as the folder `amd64` says"),
        (b"architecture: z80", "expected one that clients know"),
        (b"creation_date: 5", "says `architecture: None`"),
        (b"[]", "is a list, expected a mapping"),
        (b"a: [", "is not YAML (did not find expected node content in line 2, column 1)"),
        (b"architecture: !!bool foo", "uses the YAML tag 'tag:yaml.org,2002:bool'; leave it out"),
        (b"architecture: x86_64\ncreation_date: !!int ''", "uses the YAML tag"),
        (b"architecture: !!timestamp foo", "uses the YAML tag"),
        (b"architecture: 0x" + b"f" * 4000, "says `architecture: a number of thousands of digits`"),
        (b"a: &a [x]\nb: [*a,*a]", "uses YAML aliases"),
        (b"[" * 40 + b"]" * 40, "nests deeper than 32"),
        (b"a: " + b"x" * MAX_YAML_BYTES, "expected at most 262,144"),
        (b"? " * 2000, "nests deeper"),
    ],
)
def test_a_metadata_yaml_that_clients_would_choke_on_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(InvalidUpload) as refusal:
        check_metadata_yaml(body, "amd64")
    assert says in str(refusal.value)


def test_checksum_files_are_read_as_sha256sum_writes_them() -> None:
    one, two = "a" * 64, "B" * 64
    body = f"{one}  rootfs.squashfs\n{two} *./lxd.tar.xz\n\nnonsense\n".encode()
    sums, ignored = parse_checksums(body)
    assert sums == {"rootfs.squashfs": one, "lxd.tar.xz": two.lower()}
    assert len(ignored) == 1
    assert "line 4" in ignored[0]
