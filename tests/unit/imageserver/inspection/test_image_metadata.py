"""metadata.yaml and the types of LXD and Incus. Each row was tried with gopkg.in/yaml.v2 and go.yaml.in/yaml/v4."""

import tracemalloc

import pytest

from imageserver.errors import InvalidUpload
from imageserver.inspection import go_yaml
from imageserver.inspection.image_metadata import check_metadata_yaml

OK = "architecture: x86_64\n"
FILES = {"hostname.tpl": "", "link.tpl": "is no regular file in the tarball"}
HOSTNAME = "templates:\n  /etc/hostname:\n    when: [create]\n    "


def refusal(body: str | bytes, arch: str = "amd64") -> str:
    with pytest.raises(InvalidUpload) as refused:
        check_metadata_yaml(body if isinstance(body, bytes) else body.encode(), arch, FILES)
    return str(refused.value)


@pytest.mark.parametrize("arch", ["x86_64", "amd64", "amd64v3", "x86_64_v2"])
def test_metadata_yaml_must_name_the_architecture_of_its_folder(arch: str) -> None:
    assert check_metadata_yaml(f"architecture: {arch}\ncreation_date: 1".encode(), "amd64") == ()


@pytest.mark.parametrize(
    "more",
    [
        "",  # no creation_date: from a simplestreams server it is the version's name
        "creation_date: 0",
        "expiry_date: -1\ncreation_date: 0x10",
        "creation_date: 1_700_000_000\nexpiry_date: 017",
        "creation_date: 1700000000.0\nexpiry_date: 1e3",
        "creation_date: !!int '5'\nexpiry_date: 9223372036854775807",
        "creation_date: ~\nexpiry_date:\nproperties: null\ntemplates:",
        "properties: {release: 24.04, serial: 20240101, on: yes, x: 0x10, y: ~, z: !foo bar}",
        "properties: {serial: 2024-13-01, a: 2024-02-30, b: 2024-01-01 noon}",
        "properties: {c: 2024-01-01T10:00, d: 2024-01-01T24:00:00Z}",
        "creation_date: -9223372036854775808",
        "properties: {architecture: amd64}",
        "properties: !custom {a: !!binary aGVsbG8=}",
        "templates: {}",
        "templates: {/a: {when: [], template: missing.tpl}}",  # never applied
        "templates: {/a: {template: missing.tpl}}",
        "templates: {/a: {when: [never], template: 5}}",
        HOSTNAME + "template: hostname.tpl\n    create_only: on\n    properties: {default: 5}",
        HOSTNAME + "template: hostname.tpl\n    uid: 1000\n    gid: '0'\n    mode: 644",
        "unknown: {[a]: b, {c: d}: e, x: !!int y, k: 1, k: 2}",
        "base: &b {a: b}\nproperties: {<<: *b, c: d}",
        "base: &b {a: b}\nproperties: {<<: [*b, *b], a: c}",
        "base: &b {a: b}\nproperties: {a: b, <<: *b}",
        "properties: &p {a: b}\ncopy: [*p, *p]",
        "properties:\n  text: |\n" + "    x\n" * 50_000,  # 300 kB
        "%s" % ("# " + "x" * 300_000),
    ],
)
def test_metadata_that_every_client_accepts_is_accepted(more: str) -> None:
    assert check_metadata_yaml((OK + more).encode(), "amd64", FILES) == ()


@pytest.mark.parametrize("prefix", ["", "\ufeff", "---\n", "%YAML 1.1\n---\n", "# comment\n\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_every_document_start_and_encoding_of_yaml_is_accepted(prefix: str, encoding: str, ending: str) -> None:
    if prefix != "\ufeff" or encoding == "utf-8":
        assert check_metadata_yaml((prefix + OK).replace("\n", ending).encode(encoding), "amd64") == ()


NAMES_IN_MESSAGES = [
    "templates: {%s: 5}", "templates: {%s: ~}", "templates: {%s: {when: 5}}", "templates: {a: {properties: {%s: []}}}",
    "templates: {%s: {when: [create], template: x}}", "properties: {%s: []}", "properties: {%s: a, <<: {%s: b}}",
    "properties: {a: *%s}", "properties: {%s: a, %s: b}", "properties: {%s: 2026-01-01}",
    "properties: {a: 2026-01-01T00:00:00.%sZ}", "creation_date: 1.5%s",
]  # fmt: skip


@pytest.mark.parametrize("more", NAMES_IN_MESSAGES)
@pytest.mark.parametrize(
    "name", ['"\\e[2J\\u202e"', "A" * 1000, "0" * 100_000], ids=["for a terminal", "long key", "endless"]
)
def test_no_message_is_endless_or_commands_a_terminal(more: str, name: str) -> None:
    body = (OK + more.replace("%s", name)).encode()
    try:
        sentences: tuple[str, ...] = check_metadata_yaml(body, "amd64", {})
    except InvalidUpload as refused:
        sentences = (str(refused),)
    assert all(sentence.isprintable() and len(sentence) < 500 for sentence in sentences)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("---\nnotes: none", "more follows its first document"),
        ("---\nbroken: [", "more follows its first document"),
        ("...\nbroken: [", "more follows its first document"),
        ("properties: {serial: 2024-01-01}", "the date 2024-01-01 at `properties.serial` in line 2 is not in quotes"),
        ("properties: {a: 2024-02-29 1:2:3.5}", "the date 2024-02-29 1:2:3.5 at `properties.a` in line 2"),
        ("properties: {a: 2024-1-1T10:00:00+24:00}", "the date 2024-1-1T10:00:00+24:00 at `properties.a`"),
        ("properties: {serial: !!timestamp 2024-01-01}", "the date 2024-01-01 at `properties.serial` in line 2"),
        ("properties: {a: !!bool yes}", "yes at `properties.a` in line 2 has the tag !!bool"),
        ("templates: {/a: {create_only: !!bool on}}", "on at `templates./a.create_only` in line 2 has the tag !!bool"),
        ("templates: {/a: {when: [start], template: 2024-01-01}}", "the date 2024-01-01 at `templates./a.template` in"),
        ("properties: {a: 1, a: 2}", "`properties.a` appears twice, again in line 2"),
        ("architecture: x86_64", "`architecture` appears twice"),
        ("base: &b {a: b}\n<<: *b\n<<: *b", "`<<` appears twice, again in line 4"),
        ("properties: {<<: {a: b, a: c}}", "`properties.a` appears twice, again in line 2"),
        (HOSTNAME + "template: missing.tpl\ntemplates: ~", "`templates` appears twice"),
        (HOSTNAME + "template: missing.tpl\n  /etc/hostname: {}", "`templates./etc/hostname` appears twice"),
        ("expiry_date: 1.5", "1.5 at `expiry_date` in line 2 is no whole number"),
    ],
)
def test_metadata_that_only_incus_7_refuses_is_a_warning(more: str, what: str) -> None:
    (warning,) = check_metadata_yaml((OK + more).encode(), "amd64")
    assert warning.startswith("Incus 7.0 and later start no instance of it")
    assert what in warning


TARGETS = [
    ("../../etc/cron.d/x", "makes a file '../../etc/cron.d/x' of a template, expected a path inside the root"),
    ("/../etc/hosts", "makes a file '/../etc/hosts' of a template"),
    ("etc/../../hosts", "makes a file 'etc/../../hosts' of a template"),
    ("/etc/../..", "makes a file '/etc/../..' of a template"),
    ("..", "makes a file '..' of a template"),
    ("/", "makes a file '/' of a template, expected the path of a file (`templates./` in line 3): every launch"),
    ("''", "makes a file '' of a template, expected the path of a file"),
    ("/etc/..", "makes a file '/etc/..' of a template, expected the path of a file"),
    ("//.", "makes a file '//.' of a template, expected the path of a file"),
]
"""Targets of a template: LXD and Incus open it below the root, or join the two paths."""


TWICE = [
    ("expiry_date: never\nexpiry_date: 1", "has the text 'never' at `expiry_date` in line 2"),
    ("properties: {a: [b]}\nproperties: {a: b}", "has a list at `properties.a` in line 2"),
    ("properties: {a: [b]}\nproperties: ~", "has a list at `properties.a` in line 2"),
    ("templates: {/a: {when: [[b]]}}\ntemplates: {/a: {when: []}}", "has a list at `templates./a.when[0]`"),
    ("templates: {/a: {uid: [1]}, /a: {}}", "has a list at `templates./a.uid` in line 2"),
    (HOSTNAME + "template: missing.tpl\ntemplates: {}", "names the template 'missing.tpl'"),
    ("base: &b {expiry_date: never}\n<<: *b\nexpiry_date: 1", "has the text 'never' at `expiry_date` in line 2"),
]
"""A key that is there twice: yaml.v2 decodes both values, and the entries of both mappings."""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("properties:\n  release: [noble]", "has a list at `properties.release` in line 3, expected a text"),
        ("properties:\n  a: {b: c}", "has a mapping at `properties.a` in line 3, expected a text"),
        ("properties: []", "has a list at `properties` in line 2, expected a mapping of texts"),
        ('properties: ""', "has the text '' at `properties` in line 2"),
        ("properties: {[a]: b}", "has a list at `a key of properties` in line 2, expected a text"),
        ("properties: {a: !!bool foo}", "gives 'foo' in line 2 the tag !!bool, which it is not"),
        ('properties: {a: !!binary "@@@"}', "!!binary data in line 2 that is not base64"),
        (
            "base: &b {a: b}\nproperties: {a: c, <<: *b}",
            "gives `properties.a` in line 3 and merges another behind it in line 3, of which clients take",
        ),
        ("base: &b {architecture: aarch64}\n<<: *b", "gives `architecture` in line 1 and merges another behind it"),
        ("base: &b [a]\nproperties: {<<: *b}", "merges a list in line 2, expected a mapping or a list of mappings"),
        ("base: &b {a: [x]}\nproperties: {<<: *b}", "has a list at `properties.a` in line 2"),
        ("properties: {a: *b}", "uses the alias *b in line 2"),
        ("templates: []", "has a list at `templates` in line 2, expected a mapping"),
        ("templates: x", "has the text 'x' at `templates` in line 2"),
        ("templates:\n  /a:", "has nothing (null) at `templates./a` in line 3, expected a mapping"),
        ("templates:\n  /a: []", "has a list at `templates./a` in line 3, expected a mapping"),
        ("templates: {/a: {when: create}}", "has the text 'create' at `templates./a.when` in line 2, expected a list"),
        ("templates: {/a: {when: [[a]]}}", "has a list at `templates./a.when[0]`"),
        ("templates: {/a: {create_only: 1}}", "has the number '1' at `templates./a.create_only`"),
        ('templates: {/a: {create_only: "on"}}', "has the text 'on' at `templates./a.create_only`"),
        ("templates: {/a: {create_only: tRue}}", "has the text 'tRue' at `templates./a.create_only`"),
        ("templates: {/a: {properties: [b]}}", "has a list at `templates./a.properties`"),
        (
            "expiry_date: never",
            "has the text 'never' at `expiry_date` in line 2, expected a whole number without quotes",
        ),
        ('creation_date: "5"', "has the text '5' at `creation_date` in line 2"),
        ("creation_date: 2024-01-01", "has the date '2024-01-01' at `creation_date`"),
        ("creation_date: true", "has the word 'true' at `creation_date`"),
        ("expiry_date: 9223372036854775808", "has the number '9223372036854775808' at `expiry_date`"),
        ("expiry_date: 1e30", "has the number '1e30' at `expiry_date`"),
        ("expiry_date: .inf", "has the number '.inf' at `expiry_date`"),
        ("expiry_date: 12:30", "has the text '12:30' at `expiry_date`"),
        ("expiry_date: !foo 5", "has the text '5' at `expiry_date`"),
        ("expiry_date: [1]", "has a list at `expiry_date`"),
        ("properties: {architecture: aarch64}", "says `properties.architecture: aarch64` and `architecture: x86_64`"),
        (HOSTNAME + "template: missing.tpl", "names the template 'missing.tpl', expected a file templates/missing.tpl"),
        (HOSTNAME + "template: link.tpl", "names the template 'link.tpl', which is no regular file"),
        (HOSTNAME + "template: ../hostname.tpl", "expected the name of a file in templates/"),
        (HOSTNAME + "create_only: false", "names the template '', expected the name of a file"),
        (HOSTNAME + "template: hostname.tpl\n    uid: root", "gives a template the uid 'root', expected a number"),
        (HOSTNAME + "template: hostname.tpl\n    mode: rw-r--r--", "gives a template the mode 'rw-r--r--'"),
        ("x: &a [*a]", "uses the alias *a in line 2 inside itself"),
        *((more, message) for more, message in TWICE),
        *(
            (f"templates:\n  {target}: {{when: [start], template: hostname.tpl}}", message)
            for target, message in TARGETS
        ),
    ],
)
def test_metadata_that_a_client_cannot_read_is_refused_with_line_and_types(more: str, message: str) -> None:
    assert message in refusal(OK + more)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            b"architecture: aarch64",
            "says `architecture: aarch64` in line 1, expected x86_64 as the folder `amd64` says",
        ),
        (b"architecture: z80", "says `architecture: 'z80'` in line 1, expected one that clients know"),
        (b"creation_date: 5", "says no `architecture`, expected x86_64"),
        (b"architecture: [x86_64]", "has a list at `architecture` in line 1, expected a text"),
        (b"[]", "is a list, expected a mapping"),
        (b"", "is empty, expected a mapping"),
        (b"# only a comment", "is empty"),
        (b"a: [", "is not YAML (did not find expected node content in line 2, column 1)"),
        (b"%YAML 1.2\n---\narchitecture: x86_64", "has the directive `%YAML 1.2`"),
        (b"architecture: x86_64\na: \xff", "is not YAML"),
        (b"architecture: x86_64\na: \x01", "is not YAML"),
        (b"architecture: x86_64\n\ta: b", "is not YAML"),
        (b"[" * 40 + b"]" * 40, "nests deeper than 32"),
        (b"a: " + b"x" * go_yaml.MAX_BYTES, "expected at most 1,048,576"),
        (b"? " * 2000, "nests deeper"),
        (b"a: [" + b",".join([b"b"] * 60_000) + b"]", "holds more than 50,000 values"),
    ],
)
def test_a_metadata_yaml_that_is_not_a_yaml_mapping_is_refused(body: bytes, message: str) -> None:
    assert message in refusal(body)


def test_yaml_aliases_that_explode_are_refused_before_anything_is_built() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    assert "holds more than 50,000 values, those behind its aliases included" in refusal(OK + "\n".join(levels))


def test_merge_keys_that_explode_are_refused() -> None:
    levels = ["a0: &a0 {x: y}"]
    levels += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 20)]
    assert "holds more than 50,000 values" in refusal(OK + "\n".join(levels) + "\nproperties: *a19")


def test_a_long_chain_of_merge_keys_is_followed() -> None:
    chain = ["a0: &a0 {x: y}"] + [f"a{n}: &a{n} {{<<: *a{n - 1}, k{n}: v}}" for n in range(1, 100)]
    assert check_metadata_yaml((OK + "\n".join(chain) + "\nproperties: *a99").encode(), "amd64") == ()


@pytest.mark.parametrize("body", [b"a: [" + b"b," * 500_000 + b"]", b"- \n" * 300_000, b"a: " + b"1:" * 500_000])
def test_the_memory_for_a_large_document_is_bounded(body: bytes) -> None:
    tracemalloc.start()
    try:
        refusal(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024 * 1024


def test_a_template_is_not_looked_for_where_the_archive_was_not_read() -> None:
    assert check_metadata_yaml((OK + HOSTNAME + "template: missing.tpl").encode(), "amd64", None) == ()


@pytest.mark.parametrize(
    "target", ["etc/hosts", "/etc/hosts", "//etc/hosts", "/etc/../etc/hosts", "/..hosts", "/.../x"]
)
def test_a_template_may_become_any_file_of_the_root(target: str) -> None:
    more = f"templates:\n  {target}: {{when: [start], template: a.tpl}}"
    assert check_metadata_yaml((OK + more).encode(), "amd64", {"a.tpl": ""}) == ()


def test_the_target_of_a_template_that_no_event_applies_does_not_matter() -> None:
    more = "templates: {../x: {when: [boot], template: a.tpl}}"
    assert check_metadata_yaml((OK + more).encode(), "amd64", {"a.tpl": ""}) == ()


def test_a_property_of_an_architecture_that_no_client_knows_is_a_warning() -> None:
    (warning,) = check_metadata_yaml((OK + "properties: {architecture: z80}").encode(), "amd64")
    assert "says `properties.architecture: 'z80'`, which no client knows" in warning
