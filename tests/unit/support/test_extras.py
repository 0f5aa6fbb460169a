"""A test with a missing package is skipped with its name, or fails where everything is required."""

import pytest

from tests.support import extras


def test_a_missing_package_skips_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "REQUIRED", False)
    with pytest.raises(pytest.skip.Exception, match="NOT TESTED, missing no_such_package: uv sync --group contract"):
        extras.optional("no_such_package", "contract")


def test_a_missing_package_fails_where_extras_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "REQUIRED", True)
    with pytest.raises(ModuleNotFoundError):
        extras.optional("no_such_package", "contract")


@pytest.mark.parametrize("required", [True, False])
def test_an_installed_package_is_returned(required: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "REQUIRED", required)
    assert extras.optional("json", "contract").dumps([]) == "[]"
