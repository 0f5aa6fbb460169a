"""metadata.json and image.yaml: which values are used, and which are ignored."""

import json
from collections.abc import Callable

import pytest

from imageserver.format.keys import parse_product
from imageserver.inspection.overrides import Overrides, Parsed, parse_image_yaml, parse_metadata_json

NOBLE = parse_product("images/ubuntu/noble/amd64/default")


def test_every_known_key_of_metadata_json_is_read() -> None:
    document = {
        "os": "Ubuntu", "release_title": "24.04 LTS", "release_codename": "Noble Numbat", "variant": "server",
        "version": "24.04", "label": "release", "aliases": ["n", "lts"], "requirements": {"secureboot": "false"},
        "supported": True, "support_eol": "2029-05-31", "retain_versions": 3, "retain_days": 0,
    }  # fmt: skip
    parsed = parse_metadata_json(json.dumps(document).encode())
    assert parsed.ignored == ()
    # As parsed from JSON.
    assert parsed.overrides == Overrides(**document | {"aliases": ("n", "lts")})  # type: ignore[arg-type]


@pytest.mark.parametrize("aliases", ["a,b", " a , b ", ["a", "b"], ["a", " b "], "a,b,a"])
def test_aliases_are_a_list_or_a_comma_joined_string_and_trimmed(aliases: object) -> None:
    assert parse_metadata_json(json.dumps({"aliases": aliases}).encode()).overrides.aliases == ("a", "b")


@pytest.mark.parametrize("alias", ["0123456789ab", "ABCDEF012345", "f" * 64, "c0ffee", "202611231000"])
def test_an_alias_like_a_fingerprint_is_ignored(alias: str) -> None:
    parsed = parse_metadata_json(json.dumps({"aliases": [alias, "cafe", "20261123", "24.04"]}).encode())
    assert parsed.overrides.aliases == ("cafe", "20261123", "24.04")
    assert parsed.ignored == (
        f"the alias {alias} is ignored: clients would take it for the fingerprint of another image",
    )


def test_a_number_in_metadata_json_is_kept_as_written() -> None:
    parsed = parse_metadata_json(b'{"aliases": [24.10, 7], "release_title": 20.10, "version": 12}')
    assert parsed == Parsed(Overrides(aliases=("24.10", "7"), release_title="20.10", version="12"), ())


def test_an_endless_number_is_refused_with_a_message_for_the_publisher() -> None:
    (sentence,) = parse_metadata_json(b'{"version": ' + b"9" * 9000 + b"}").ignored
    assert sentence.startswith("it is not JSON (")
    assert sentence.endswith("value has 9000 digits): all of it is ignored")


def test_a_duplicate_key_in_metadata_json_is_reported() -> None:
    parsed = parse_metadata_json(b'{"os": "A", "requirements": {"nesting": "true", "nesting": "false"}, "os": "B"}')
    assert parsed.overrides == Overrides(os="B", requirements={"nesting": "false"})
    assert parsed.ignored == tuple(f"{key!r} appears twice: the last one counts" for key in ("nesting", "os"))


@pytest.mark.parametrize(
    ("document", "about"),
    [
        ({"os": True}, "os is true, expected a text"),
        ({"os": [5]}, "os is [5], expected a text"),
        ({"aliases": ["x/"]}, "the alias 'x/' is ignored"),
        ({"aliases": ["x//y"]}, "the alias 'x//y' is ignored"),
        ({"aliases": ["x/../y"]}, "the alias 'x/../y' is ignored"),
        ({"aliases": ["x/./y"]}, "the alias 'x/./y' is ignored"),
        ({"aliases": ["x/.."]}, "the alias 'x/..' is ignored"),
        ({"aliases": ["x:y"]}, "the alias 'x:y' is ignored"),
        ({"aliases": ["ubuntu/nobl\u0435"]}, "the alias 'ubuntu/nobl\\u0435' is ignored"),
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
def test_only_the_invalid_override_is_ignored_and_it_is_reported(document: dict[str, object], about: str) -> None:
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
    parsed = parse_image_yaml(b"simplestream: {requirements: {cgroup: 0x" + b"f" * 4000 + b"}}", NOBLE)
    assert (parsed.overrides, len(parsed.ignored)) == (Overrides(), 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("secure_boot", "expected `requirements.secureboot`"),
        ("secureBoot", "expected `requirements.secureboot`"),
        ("requirements.secureboot", "expected `secureboot`"),  # what it says already is no hint
        ("requirements.secure_boot", "expected `secureboot`"),
        ("cgroups", "expected `requirements.cgroup`"),
        ("cdrom-agent", "expected `requirements.cdrom_agent`"),
        ("custom1", "expected one of secureboot, cgroup, nesting"),
    ],
)
def test_a_requirement_that_no_client_reads_is_kept_and_the_right_name_suggested(name: str, expected: str) -> None:
    parsed = parse_metadata_json(json.dumps({"requirements": {name: "false"}}).encode())
    assert parsed.overrides.requirements == {name: "false"}
    (sentence,) = parsed.ignored
    assert f"no client reads the requirement {name!r}, {expected}" in sentence


@pytest.mark.parametrize(
    "section", ["release_aliases: {%s: []}", "requirements: {%s: []}", "requirements: {%s: a, %s: b}"]
)
def test_a_name_in_a_message_about_image_yaml_is_escaped(section: str) -> None:
    name = '"\\e[2J\\u202e' + "x" * 1000 + '"'
    parsed = parse_image_yaml(f"simplestream: {{{section.replace('%s', name)}}}".encode(), NOBLE)
    assert parsed.ignored
    assert all(sentence.isprintable() and len(sentence) < 300 for sentence in parsed.ignored)


def test_an_image_yaml_of_imagebuilder_is_read() -> None:
    body = b"""
image: {distribution: ubuntu}
simplestream:
  distro_name: Ubuntu
  release_aliases: {noble: "24.04, lts", jammy: "22.04"}
  requirements:
    - requirements: {secureboot: false}
    - requirements: {nesting: true}
      releases: [jammy]
"""
    parsed = parse_image_yaml(body, NOBLE)
    assert parsed.ignored == ()
    assert parsed.overrides == Overrides(
        os="Ubuntu",
        aliases=("ubuntu/24.04/default", "ubuntu/24.04", "ubuntu/lts/default", "ubuntu/lts"),
        requirements={"secureboot": "false"},
    )


AS_WRITTEN = ("24.04", "20.10", "7", "on", "0x10", "1_000", "2024-01-01", "1e3", "010", "true", "007", ".5", "12:30")


@pytest.mark.parametrize("written", [*AS_WRITTEN, *(f'"{text}"' for text in AS_WRITTEN), "!!str 24.04"])
def test_scalars_of_image_yaml_are_read_as_written(written: str) -> None:
    """Like Go's yaml with a string field: lxd-imagebuilder's own manual leaves out the quotes."""
    body = f"""
simplestream:
  distro_name: {written}
  release_aliases:
    noble: {written}
    22.04: no
  requirements:
  - requirements: {{cgroup: {written}}}
    releases: [{written}, noble]
  - requirements: {{nesting: {written}}}
    variants: [{written}]
"""
    text = written.removeprefix("!!str ").strip('"')
    parsed = parse_image_yaml(body.encode(), NOBLE)
    aliases = () if ":" in text else (f"ubuntu/{text}/default", f"ubuntu/{text}")
    assert (parsed.overrides.os, parsed.overrides.requirements) == (text, {"cgroup": text})
    assert parsed.overrides.aliases == aliases
    assert [sentence for sentence in parsed.ignored if "the alias" not in sentence] == []


@pytest.mark.parametrize("release", ["7", "9", "20.10", "on", "24.04", "1_000", "0x10"])
def test_a_release_that_looks_like_another_type_is_found_by_its_folder(release: str) -> None:
    product = parse_product(f"images/centos/{release}/amd64/cloud")
    body = f"""
simplestream:
  release_aliases: {{{release}: lts}}
  requirements:
  - requirements: {{secureboot: False}}
    releases: [{release}]
    architectures: amd64
"""
    parsed = parse_image_yaml(body.encode(), product)
    assert parsed == Parsed(Overrides(aliases=("centos/lts/cloud",), requirements={"secureboot": "False"}), ())


def test_anchors_and_merge_keys_are_followed() -> None:
    body = b"""
x-base: &base {secureboot: false, nesting: true}
simplestream: &all
  distro_name: &name Ubuntu
  release_aliases: {noble: *name}
  requirements:
  - requirements: {<<: *base, nesting: false}
"""
    parsed = parse_image_yaml(body, NOBLE)
    assert parsed.overrides.requirements == {"secureboot": "false", "nesting": "false"}
    assert parsed.overrides.aliases == ("ubuntu/Ubuntu/default", "ubuntu/Ubuntu")
    assert len(parsed.ignored) == 1  # x-base, which lxd-imagebuilder does not know


@pytest.mark.parametrize(
    ("release", "variant", "aliases"),
    [
        ("noble", "cloud", ("ubuntu/noble/cloud",)),
        ("noble", "default", ("ubuntu/noble/default", "ubuntu/noble")),
        ("current", "cloud", ("ubuntu/current/cloud", "ubuntu/cloud")),
        ("current", "default", ("ubuntu/current/default", "ubuntu/default", "ubuntu")),
    ],
)
def test_aliases_match_those_of_lxd_imagebuilder(release: str, variant: str, aliases: tuple[str, ...]) -> None:
    """The rows of its TestCreateAliases, for a folder and for an alias of a release."""
    product = parse_product(f"images/ubuntu/{release}/amd64/{variant}")
    assert set(aliases) <= {*product.path_aliases, *product.current_aliases}
    other = parse_product(f"images/ubuntu/other/amd64/{variant}")
    body = f"simplestream: {{release_aliases: {{other: {release}}}}}".encode()
    assert parse_image_yaml(body, other).overrides.aliases == aliases


def test_an_os_in_title_case_keeps_its_case_in_aliases_as_lxd_imagebuilder_does() -> None:
    product = parse_product("images/Ubuntu/noble/amd64/default")
    parsed = parse_image_yaml(b"simplestream: {release_aliases: {noble: 24.04}}", product)
    assert parsed.overrides.aliases == ("Ubuntu/24.04/default", "Ubuntu/24.04")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("simplestream: 5", "it has the number '5' at `simplestream` in line 1, expected a mapping: ignored"),
        ("simplestream: []", "it has a list at `simplestream` in line 1"),
        ("- a", "it has a list at `the top` in line 1, expected a mapping"),
        ("# nothing", "it holds nothing"),
        ("simplestreams: {}", "`simplestreams` in line 1 has no meaning, expected `simplestream`: ignored"),
        ("simplestream: {distroname: a}", "`simplestream.distroname` in line 1 has no meaning, expected `distro_name`"),
        ("simplestream:\n  distro_name: [a]", "a list at `simplestream.distro_name` in line 2, expected a text"),
        (
            "simplestream: {release_aliases: [a]}",
            "a list at `simplestream.release_aliases` in line 1, expected a mapping",
        ),
        (
            "simplestream: {release_aliases: {noble: [a, b]}}",
            "a list at `simplestream.release_aliases.noble` in line 1",
        ),
        ("simplestream: {requirements: false}", "the word 'false' at `simplestream.requirements` in line 1"),
        ("simplestream: {requirements: [a]}", "the text 'a' at `simplestream.requirements[0]` in line 1"),
        ("simplestream: {requirements: [{releases: [a]}]}", "`requirements[0]` in line 1 has no `requirements`"),
        ("simplestream: {requirements: [{requirements: {cgroup: {}}}]}", "a mapping at `simplestream.requirements[0]"),
        ("simplestream: {requirements: [{requirements: {cgroup: v1}, variant: [a]}]}", "expected `variants`: ignored"),
        ("simplestream: {requirements: [{requirements: {cgroup: v1}, types: [vm]}]}", "to no product"),
        ("simplestream: {distro_name: a, distro_name: b}", "`simplestream.distro_name` appears twice"),
        ("simplestream: {}\n---\na: b", "more follows its first document"),
        ("simplestream: {distro_name: !!bool x}", "gives 'x' in line 1 the tag !!bool, which it is not: all of it"),
        ("simplestream: {distro_name: *x}", "uses the alias *x in line 1, which nothing before it defines"),
        ("simplestream: &a {x: *a}", "inside itself"),
        ("simplestream: {<<: 5}", "merges the number '5' in line 1, expected a mapping"),
        ("%YAML 1.2\n---\na: b", "has the directive `%YAML 1.2`, expected 1.1 or none"),
    ],
)
def test_unknown_values_in_image_yaml_are_reported(body: str, expected: str) -> None:
    ignored = parse_image_yaml(body.encode(), NOBLE).ignored
    assert [
        sentence
        for sentence in ignored
        if expected.replace("`requirements[0]`", "simplestream.requirements[0]") in sentence
    ]


def test_a_wrong_value_in_image_yaml_does_not_affect_the_others() -> None:
    body = b"""
simplestream:
  distro_name: [a]
  release_aliases: {noble: [b], jammy: 22.04}
  requirements: [{requirements: {cgroup: v1}}, 5]
"""
    parsed = parse_image_yaml(body, NOBLE)
    assert parsed.overrides == Overrides(requirements={"cgroup": "v1"})
    assert len(parsed.ignored) == 3


@pytest.mark.parametrize(
    "body",
    [b"a: [", b"\x00", b"simplestream: 5", b"- a", b"[" * 5000, b"%TAG ! x", b"simplestream: {distro_name: !!int ''}"],
)
def test_an_invalid_image_yaml_overrides_nothing_and_is_reported(body: bytes) -> None:
    parsed = parse_image_yaml(body, NOBLE)
    assert parsed.overrides == Overrides()
    assert parsed.ignored


def test_metadata_json_takes_precedence_over_image_yaml() -> None:
    weaker = Overrides(os="Yaml", label="kept", aliases=("b",))
    assert Overrides(os="Json", aliases=("a",)).over(weaker) == Overrides(os="Json", label="kept", aliases=("a", "b"))


@pytest.mark.parametrize("parse", [parse_metadata_json, lambda body: parse_image_yaml(body, NOBLE)])
def test_overrides_that_would_fill_the_catalog_of_every_client_are_ignored(parse: Callable[[bytes], Parsed]) -> None:
    many = {f"requirement{number}": "x" * 180 for number in range(100)}
    body = {"requirements": many, "simplestream": {"requirements": [{"requirements": many}]}}
    parsed = parse(json.dumps(body).encode())
    assert parsed.overrides == Overrides()
    assert "bytes, expected at most 4,096, since every client downloads it" in "".join(parsed.ignored)
    assert parse(json.dumps({"os": "Alma", "simplestream": {"distro_name": "Alma"}}).encode()).overrides.os == "Alma"


@pytest.mark.parametrize("written", ["n", "y", "disabled", "2", "none", "False.", ""])
@pytest.mark.parametrize("name", ["secureboot", "nesting", "privileged", "cdrom_agent", "cdrom_cloud_init"])
def test_a_requirement_that_clients_read_as_neither_true_nor_false_is_reported(name: str, written: str) -> None:
    parsed = parse_metadata_json(json.dumps({"requirements": {name: written}}).encode())
    assert parsed.overrides.requirements == {name: written}
    assert parsed.ignored == (
        f"the requirement {name} is {written!r}, expected true or false: no client takes it for either, it is listed "
        "and has no effect",
    )


@pytest.mark.parametrize("written", ["true", "FALSE", "yes", "No", "on", "OFF", "1", "0", False, True, 0])
def test_a_requirement_in_the_words_of_clients_is_accepted(written: object) -> None:
    assert parse_metadata_json(json.dumps({"requirements": {"secureboot": written}}).encode()).ignored == ()


def test_requirements_of_an_image_yaml_are_checked_the_same_way() -> None:
    parsed = parse_image_yaml(b"simplestream: {requirements: {secureboot: n, cgroup: v1}}", NOBLE)
    assert parsed.ignored[0].startswith("the requirement secureboot is 'n', expected true or false")


@pytest.mark.parametrize(
    ("key", "meant"),
    [("OS", "os"), ("alias", "aliases"), ("Aliases", "aliases"), ("requirement", "requirements")],
)  # fmt: skip
def test_a_misspelled_key_is_reported_with_the_right_one(key: str, meant: str) -> None:
    parsed = parse_metadata_json(json.dumps({key: "x"}).encode())
    assert parsed.ignored == (f"the key {key!r} has no meaning here, expected `{meant}`: ignored",)


def test_json_literals_are_quoted_as_written() -> None:
    parsed = parse_metadata_json(b'{"os": null, "aliases": [true]}')
    assert parsed.ignored[0].startswith("os is null, expected a text")
    assert parsed.ignored[1].startswith("the alias true is ignored")
