"""The settings of a function: what its environment must hold, and how a wrong value is reported."""

import pytest

from imageserver.settings import CLIENT_CHOICES, BadSetting, Settings


def test_a_bucket_is_enough_and_everything_else_has_a_default() -> None:
    settings = Settings.from_environment({"BUCKET": "b"})
    assert settings == Settings(bucket="b")
    assert (settings.max_upload_bytes, settings.grace_hours, settings.allow_deletes) == (50_000_000_000, 24, False)


def test_every_variable_is_read_into_the_field_of_its_name() -> None:
    settings = Settings.from_environment(
        {
            "BUCKET": "b",
            "CLIENTS": "lxd",
            "MAX_UPLOAD_BYTES": "1000",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
            "ALLOW_OVERWRITES": "true",
            "ALLOW_DELETES": "false",
            "PUBLISHERS": '{"*": ["images/*"]}',
            "RETAIN_DAYS": "30",
            "PATH": "/bin",
        }
    )
    assert settings == Settings(
        bucket="b",
        clients="lxd",
        max_upload_bytes=1000,
        memory_mb=1769,
        allow_overwrites=True,
        publishers='{"*": ["images/*"]}',
        retain_days=30,
    )


def test_a_number_is_read_in_the_form_that_cloudformation_returns() -> None:
    settings = Settings.from_environment({"BUCKET": "b", "MAX_UPLOAD_BYTES": "5.3687091200E10"})
    assert settings.max_upload_bytes == 53_687_091_200


def test_an_empty_variable_counts_as_unset() -> None:
    empty = {"PUBLISHERS": "", "RETAIN_DAYS": "", "ALLOW_DELETES": "", "CLIENTS": "", "DISTRIBUTION_ID": ""}
    assert Settings.from_environment({"BUCKET": "b", **empty}) == Settings(bucket="b")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"BUCKET": ""}, "BUCKET is not set: "),
        ({"RETAIN_DAYS": "x"}, r"RETAIN_DAYS is 'x': Expected `int`"),
        ({"RETAIN_DAYS": "1.5"}, r"RETAIN_DAYS is '1.5': Expected `int`"),
        ({"RETAIN_DAYS": "-1"}, r"RETAIN_DAYS is '-1': Expected `int` >= 0"),
        ({"ALLOW_DELETES": "yes"}, r"ALLOW_DELETES is 'yes': Expected `bool`"),
        ({"CLIENTS": "podman"}, "CLIENTS is 'podman': Invalid enum value"),
        ({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "much"}, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE is 'much': Expected `int`"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_variable(changed: dict[str, str], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Settings.from_environment({"BUCKET": "b", **changed})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings(bucket="b").bucket = "other"  # type: ignore[misc]  # what the test is about


@pytest.mark.parametrize("choice", ["both", "lxd", "incus"])
def test_each_choice_of_client_kinds_has_its_list(choice: str) -> None:
    assert Settings.from_environment({"BUCKET": "b", "CLIENTS": choice}).clients == choice
    assert CLIENT_CHOICES[choice]


def test_invalid_settings_of_maintain_are_refused_by_name() -> None:
    variables = {"RETAIN_VERSIONS": "3", "RETAIN_DAYS": "30", "STALE_DAYS": "2"}
    settings = Settings.from_environment({"BUCKET": "b", **variables})
    assert (settings.retain_versions, settings.retain_days, settings.stale_days) == (3, 30, 2)
    with pytest.raises(BadSetting, match="RETAIN_DAYS is 'x'"):
        Settings.from_environment({"BUCKET": "b", "RETAIN_DAYS": "x"})
