"""Keys: which are accepted, and the sentence for the others."""

import pytest

from imageserver.errors import InvalidUpload
from imageserver.format import keys
from imageserver.format.keys import (
    ImageKey,
    ProductId,
    VersionId,
    parse_key,
    parse_product,
    parse_target,
    parse_version,
    path_of,
    product_of,
    product_of_records,
    without_file,
)

GOOD = "images/ubuntu/xenial/amd64/default/20261123_10:00/lxd.tar.xz"


def test_a_key_is_parsed_into_its_folders_and_back() -> None:
    product = ProductId("images", "ubuntu", "xenial", "amd64", "default")
    assert parse_key(GOOD) == ImageKey(VersionId(product, "20261123_10:00"), "lxd.tar.xz")
    assert parse_key(GOOD).key == GOOD


def test_names_derived_from_a_key() -> None:
    version = parse_key(GOOD).version
    assert version.product.name == "ubuntu:xenial:amd64:default"
    assert version.product.path_aliases == ("ubuntu/xenial/amd64/default", "ubuntu/xenial/default", "ubuntu/xenial")
    assert version.record_key == "versions/images/ubuntu/xenial/amd64/default/20261123_10:00.json"
    assert keys.parse_record_key(version.record_key) == version


def test_only_the_default_variant_has_the_short_alias() -> None:
    assert parse_key(GOOD.replace("default", "cloud")).version.product.path_aliases == (
        "ubuntu/xenial/amd64/cloud",
        "ubuntu/xenial/cloud",
    )


@pytest.mark.parametrize(
    "key",
    [
        GOOD,
        "images-daily/ubuntu/noble/arm64/cloud/20261123_1000/rootfs.squashfs",
        "images-daily-2/Alpine/3.22/x86_64/desktop-gnome/202611231000/disk.qcow2",
        "images/a/b/riscv64/c/20240229/rootfs.20240228_10:00.vcdiff",
        "images/a/b/amd64v3/c/20240229.1/rootfs.20240229.vcdiff",
        "images/a/b/x86_64_v4/c/20240229.12/rootfs.20240229.11.vcdiff",
    ],
)
def test_valid_keys_are_accepted(key: str) -> None:
    assert parse_key(key).key == key


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "has 1 part between slashes, expected 7"),
        ("images/ubuntu/xenial/amd64/default/lxd.tar.xz", "has 6 parts between slashes, expected 7"),
        (GOOD + "/more", "has 8 parts between slashes, expected 7"),
        ("/" + GOOD, "has 8 parts between slashes, expected 7"),
        (GOOD.replace("images", "image"), "the first folder is 'image', expected `images` or `images-`"),
        (GOOD.replace("images", "images-"), "the first folder is 'images-'"),
        (GOOD.replace("images", "images-Daily"), "the first folder is 'images-Daily'"),
        (GOOD.replace("ubuntu", "c++"), "the os 'c++' contains '+'"),
        (GOOD.replace("ubuntu", "a b"), "the os 'a b' contains ' '"),
        (GOOD.replace("ubuntu", "a%2Fb"), "the os 'a%2Fb' contains '%'"),
        (GOOD.replace("ubuntu", "a\\b"), "contains '\\\\'"),
        (GOOD.replace("ubuntu", "a:b"), "contains ':'"),
        (GOOD.replace("ubuntu", "a,b"), "contains ','"),
        (GOOD.replace("ubuntu", "a\x07b"), "contains '\\x07'"),
        (GOOD.replace("ubuntu", "ubunt\u0446"), "the os 'ubunt\\u0446' contains '\u0446' (U+0446)"),
        (GOOD.replace("ubuntu", "m\u00f6bel"), "the os 'm\u00f6bel' contains '\u00f6' (U+00F6), expected"),
        (GOOD.replace("ubuntu", ""), "has an empty os"),
        (GOOD.replace("xenial", ".."), "the release '..' begins with '.'"),
        (GOOD.replace("xenial", "."), "the release '.' begins with '.'"),
        (GOOD.replace("xenial", "x" * 101), "the release has 101 characters, expected at most 100"),
        (GOOD.replace("amd64", "z80"), "no client knows the architecture 'z80'"),
        (GOOD.replace("amd64", "AMD64"), "no client knows the architecture 'AMD64'"),
        (GOOD.replace("20261123_10:00", "20260231_10:00"), "'20260231_10:00' is not a real date and time"),
        (GOOD.replace("20261123_10:00", "20261123_24:00"), "is not a real date and time"),
        (
            GOOD.replace("20261123_10:00", "2026112_10:00"),
            "the version is '2026112_10:00', expected YYYYMMDD_HHMM, YYYYMMDD_HH:MM",
        ),
        (GOOD.replace("20261123_10:00", "v1"), "the version is 'v1'"),
        (GOOD.replace("20261123_10:00", "20260231.1"), "is not a real date and time; expected YYYYMMDD"),
        (GOOD.replace("20261123_10:00", "20261123."), "the version is '20261123.', expected YYYYMMDD_HHMM"),
        (GOOD.replace("20261123_10:00", "20261123.x"), "YYYYMMDD or YYYYMMDD.N such as 20261123_1000"),
        (GOOD.replace("20261123_10:00", "20261123.1.2"), "the version is '20261123.1.2'"),
        (GOOD.replace("20261123_10:00", "20261123_1000.1"), "the version is '20261123_1000.1'"),
        (GOOD.replace("20261123_10:00", "\uff12\uff10\uff12\uff16\uff11\uff11\uff12\uff13"), "the version is '\\uff12"),
        (GOOD.replace("lxd.tar.xz", ""), "has an empty file name"),
        (GOOD.replace("lxd.tar.xz", ".hidden"), "the file name '.hidden' begins with '.'"),
        (GOOD.replace("lxd.tar.xz", "a b"), "the file name 'a b' contains ' '"),
        (GOOD.replace("lxd.tar.xz", "a\n"), "the file name 'a\\n' contains '\\n'"),
    ],
)
def test_invalid_keys_are_refused_with_the_part_that_is_wrong(key: str, message: str) -> None:
    with pytest.raises(InvalidUpload) as refusal:
        parse_key(key)
    assert message in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert str(refusal.value).isprintable()


def test_the_longest_key_fits_into_s3() -> None:
    segment = "x" * keys.MAX_SEGMENT
    key = f"images-{'d' * 93}/{segment}/{segment}/armv7a_vfpv3_hardfp/{segment}/20261123_10:00/{segment}"
    assert len(f"{keys.RECORDS}{parse_key(key).version.path}.json") < 1024
    assert len(key) < 1024


def test_the_depth_of_a_path_decides_its_target() -> None:
    path = GOOD.removesuffix("/lxd.tar.xz")
    version = parse_version(path)
    assert parse_target(path) == version
    assert parse_target(version.product.path) == parse_product(version.product.path)
    assert parse_target(f"{path}/x") == parse_key(f"{path}/x")


def test_a_path_of_another_depth_is_not_a_target() -> None:
    with pytest.raises(InvalidUpload) as refusal:
        parse_target(f"{GOOD}/deeper")
    assert f"'{GOOD}/deeper' has 8 parts between slashes, expected 5 for a product" in str(refusal.value)
    with pytest.raises(InvalidUpload, match="has 4 parts"):
        parse_target("images/ubuntu/noble/amd64")


def test_the_path_of_a_target_leads_back_to_it() -> None:
    key = parse_key(GOOD)
    assert [path_of(target) for target in (key, key.version, key.version.product)] == [
        GOOD,
        GOOD.removesuffix("/lxd.tar.xz"),
        "images/ubuntu/xenial/amd64/default",
    ]


def test_a_target_belongs_to_its_product_and_a_file_also_to_its_version() -> None:
    file = parse_key(GOOD)
    assert {product_of(target) for target in (file, file.version, file.version.product)} == {file.version.product}
    assert without_file(file) == without_file(file.version) == file.version
    assert without_file(file.version.product) == file.version.product


def test_a_record_and_the_prefix_of_its_product_belong_to_that_product() -> None:
    version = parse_key(GOOD).version
    for key in (version.record_key, version.product.records_prefix):
        assert product_of_records(key) == version.product
    for other in (f"{version.product.path}/", f"{keys.RECORDS}images/", GOOD):
        with pytest.raises(InvalidUpload):
            product_of_records(other)


@pytest.mark.parametrize(("length", "shown"), [(200, 200), (201, 200)])
def test_a_refusal_shows_at_most_200_characters_of_a_path(length: int, shown: int) -> None:
    with pytest.raises(InvalidUpload) as refusal:
        parse_target("x" * length)
    dots = "…" if length > shown else ""
    assert str(refusal.value).startswith(f"'{'x' * shown}{dots}' has 1 part")
