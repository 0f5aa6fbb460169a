"""One emulator and one deployment of the real template, for the tests that need them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from gates import tools
from tests.support.ministack import emulator
from tests.support.ministack.clone import Clone, copied
from tests.support.ministack.emulator import ACCOUNT, Emulator
from tests.support.ministack.server import Server, publisher
from tests.support.processes import REQUIRE_EXTRAS, need, short_folder


@pytest.fixture(scope="session")
def tooling() -> None:
    """Skip the tests, with a message, if packages or python3.13 are unavailable; fail them under REQUIRE_EXTRAS=1."""
    need("curl", "bash")
    try:
        python = tools.python313()
        tools.environment("ministack", python)
        tools.environment("sam")
    except tools.ToolMissing as missing:
        reason = f"NOT TESTED, the deployment: {missing}"
        if os.environ.get(REQUIRE_EXTRAS) == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def aws(tooling: None) -> Iterator[Emulator]:
    """Yield an emulated account without deployments, with the adaptations of the answers."""
    with short_folder() as folder, emulator.running(folder) as running:
        yield running


@pytest.fixture(scope="session")
def built(aws: Emulator) -> Clone:
    """Return a copy of the clone with a file of values, after `sam build`."""
    clone = copied(aws.folder / "clone", aws)
    clone.run("cp samconfig.example.toml samconfig.toml && sam build")
    return clone


@pytest.fixture(scope="session")
def first_deployment(built: Clone) -> str:
    """Return the output of the first `sam deploy`, without any chosen value."""
    return built.run("sam deploy")


@pytest.fixture(scope="session")
def ci(aws: Emulator) -> tuple[str, str]:
    """Return access key and secret of the IAM user `ci`, a publisher."""
    return publisher(aws, "ci")


@pytest.fixture(scope="session")
def server(built: Clone, first_deployment: str, ci: tuple[str, str]) -> Server:
    """Return the stack after its second deployment, which named a publisher and allowed deletes."""
    first = Server(built, "simplestreams")
    first.wait(first.is_laid_out, "an empty catalog, without another command")
    assert first.listed("images") == {}
    built.set(Publishers=f'{{"arn:aws:iam::{ACCOUNT}:user/ci": ["images*"]}}', AllowDeletes="true")
    built.run("sam deploy")
    return Server(built, "simplestreams")
