"""The set-up of the scripts, without a network."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import environment


def test_the_entry_file_parses_on_an_old_python() -> None:
    import ast

    source = (environment.PROJECT / "scripts" / "bootstrap.py").read_text()
    ast.parse(source, feature_version=(3, 6))
    assert "import environment" in source  # the rest may use newer syntax


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        ({"PIP_INDEX_URL": "https://mirror/simple"}, "UV_DEFAULT_INDEX", "https://mirror/simple"),
        ({"PIP_INDEX_URL": "https://a", "UV_DEFAULT_INDEX": "https://b"}, "UV_DEFAULT_INDEX", "https://b"),
        ({"PIP_INDEX_URL": "https://a", "UV_INDEX_URL": "https://b"}, "UV_DEFAULT_INDEX", None),
        ({"PIP_CERT": "/ca.pem"}, "SSL_CERT_FILE", "/ca.pem"),
        ({"PIP_CERT": "/ca.pem", "SSL_CERT_FILE": "/own.pem"}, "SSL_CERT_FILE", "/own.pem"),
        ({"HTTPS_PROXY": "http://proxy"}, "HTTPS_PROXY", "http://proxy"),
        ({"VIRTUAL_ENV": "/elsewhere"}, "VIRTUAL_ENV", None),
        ({"UV_PROJECT_ENVIRONMENT": "/elsewhere"}, "UV_PROJECT_ENVIRONMENT", None),
    ],
)
def test_pip_settings_are_passed_to_uv(given: dict[str, str], name: str, expected: str | None, tmp_path: Path) -> None:
    assert environment.uv_settings({"HOME": str(tmp_path), **given}).get(name) == expected


def test_variables_take_precedence_over_pip_conf(tmp_path: Path) -> None:
    conf = tmp_path / ".config/pip/pip.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text("[global]\nindex-url = https://conf/simple\n")
    given = {"HOME": str(tmp_path)}
    assert environment.uv_settings(given)["UV_DEFAULT_INDEX"] == "https://conf/simple"
    given["PIP_INDEX_URL"] = "https://variable/simple"
    assert environment.uv_settings(given)["UV_DEFAULT_INDEX"] == "https://variable/simple"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a clone with an up-to-date environment for the group `local`."""
    (tmp_path / "uv.lock").write_text("lock")
    (tmp_path / "pyproject.toml").write_text("project")
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    make(tmp_path / ".venv", ["local"])
    return tmp_path


def make(folder: Path, groups: Sequence[str]) -> None:
    """Make what `_install` leaves behind."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").write_text("")
    (folder / "stamp.json").write_text(json.dumps({"inputs": environment._inputs(), "groups": list(groups)}))


def test_an_environment_is_made_again_only_for_a_reason(project: Path) -> None:
    made = project / ".venv"
    assert environment._is_fresh(made, ["local"])
    assert not environment._is_fresh(made, ["local", "test"])
    (project / "uv.lock").write_text("other lock")
    assert not environment._is_fresh(made, ["local"])


def test_a_truncated_stamp_is_ignored(project: Path) -> None:
    (project / ".venv/stamp.json").write_text('{"inputs": ')
    assert not environment._is_fresh(project / ".venv", ["local"])


def test_an_environment_whose_python_is_gone_is_not_fresh(project: Path) -> None:
    (project / ".venv/bin/python").unlink()
    (project / ".venv/bin/python").symlink_to(project / "nowhere")
    assert not environment._is_fresh(project / ".venv", ["local"])


def test_each_python_has_an_environment_of_its_own_and_the_first_is_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("uv.lock", "pyproject.toml"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    monkeypatch.setattr(environment, "_install", make)
    for version in ((3, 11), (3, 13), (3, 11)):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "version_info", version)
            expected = tmp_path / ".venv-{}.{}".format(*version) / "bin/python"
            assert environment.ensure_environment(["local"]) == expected
            assert expected.exists()
    assert (tmp_path / ".venv").readlink() == Path(".venv-3.11")


def test_a_link_to_an_environment_that_was_removed_is_replaced(tmp_path: Path, project: Path) -> None:
    environment_of_this_python = project / ".venv-{}.{}".format(*sys.version_info)
    make(environment_of_this_python, ["local"])
    shutil.rmtree(project / ".venv")
    (project / ".venv").symlink_to(".venv-3.0")
    (environment_of_this_python / "stamp.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "_install", lambda *_: None)
        environment.ensure_environment(["local"])
    assert (project / ".venv").resolve() == environment_of_this_python


def test_an_environment_imports_the_projects_code_from_any_folder(tmp_path: Path) -> None:
    venv.create(tmp_path / "made", symlinks=True)
    environment._make_importable(tmp_path / "made")
    command = [str(tmp_path / "made/bin/python"), "-c", "import gates, imageserver, cli, tests.support"]
    done = subprocess.run(command, cwd="/", env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def python399(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put one Python on PATH."""
    python = tmp_path / "bin/python3.99"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho True 3.99\n")
    python.chmod(0o755)
    monkeypatch.setenv("PATH", str(python.parent))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    return python


@pytest.mark.parametrize("option", [["--python", "3.99"], ["--python=3.99"]])
def test_the_script_starts_again_under_the_python_that_is_asked_for(
    python399: Path, monkeypatch: pytest.MonkeyPatch, option: list[str]
) -> None:
    started: list[object] = []
    monkeypatch.setattr(os, "execv", lambda *words: started.append(words))
    monkeypatch.setattr(sys, "argv", ["scripts/test", "tests/unit", *option, "-k", "keys"])
    environment.switch_python()
    assert started == [(python399, [str(python399), "scripts/test", "tests/unit", "-k", "keys"])]


def test_the_python_that_is_already_running_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execv", None)
    monkeypatch.setattr(sys, "argv", ["scripts/test", "--python", "{}.{}".format(*sys.version_info), "-x"])
    environment.switch_python()
    assert sys.argv == ["scripts/test", "-x"]


def test_a_python_that_is_not_installed_is_named_with_what_was_tried(
    python399: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/test", "--python", "3.98"])
    with pytest.raises(SystemExit, match=rf"test: no Python 3\.98 .*Tried {python399.parent}/python3\.98"):
        environment.switch_python()


def test_a_read_only_clone_keeps_its_environment_in_the_cache(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != project)
    assert environment.working_folder().is_relative_to(cache)


class Index:
    """A package index with one wheel, as files behind `file://` addresses."""

    def __init__(self, folder: Path) -> None:
        self.wheel = folder / "uv-9-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr(f"uv-{environment.UV_VERSION}.data/scripts/uv", "#!/bin/sh\necho fetched\n")
        self.sha256 = hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        self.folder_url = folder.as_uri() + "/"


def _pin(monkeypatch: pytest.MonkeyPatch, index: Index, sha256: str) -> None:
    key = (platform.system(), platform.machine())
    monkeypatch.setattr(environment, "UV_WHEELS", {key: (index.folder_url, index.wheel.name, sha256)})
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_fetched_installer_is_checked_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(tmp_path)
    _pin(monkeypatch, index, index.sha256)
    environment._fetch_uv(tmp_path / "cache/uv")
    assert subprocess.run([tmp_path / "cache/uv"], capture_output=True, check=True).stdout == b"fetched\n"


def test_an_installer_with_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(tmp_path)
    _pin(monkeypatch, index, "0" * 64)
    monkeypatch.setattr(sys, "executable", "/bin/false")  # pip, the last resort, fails too
    with pytest.raises(environment.SetupFailed, match=f"sha256 {index.sha256} differs from the pinned 0000"):
        environment._fetch_uv(tmp_path / "cache/uv")
    assert not (tmp_path / "cache/uv").exists()


def test_an_unknown_platform_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "UV_WHEELS", {})
    with pytest.raises(environment.SetupFailed, match=r"install uv .* by hand"):
        environment._fetch_uv(tmp_path / "uv")


def test_the_command_prints_the_python_of_the_environment_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted: list[Sequence[str]] = []

    def ensure(groups: Sequence[str]) -> Path:
        wanted.append(groups)
        return Path("/of/it/python")

    monkeypatch.setattr(environment, "ensure_environment", ensure)
    monkeypatch.setattr(sys, "argv", ["environment.py", "--python", "{}.{}".format(*sys.version_info), "dev", "fuzz"])
    environment.main()
    assert (wanted, capsys.readouterr().out) == ([["dev", "fuzz"]], "/of/it/python\n")


def test_the_command_fails_with_the_reason_where_no_environment_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_groups: list[str]) -> Path:
        raise environment.SetupFailed("no network")

    monkeypatch.setattr(environment, "ensure_environment", fail)
    monkeypatch.setattr(sys, "argv", ["environment.py", "dev"])
    with pytest.raises(SystemExit, match=r"environment\.py: no network"):
        environment.main()
