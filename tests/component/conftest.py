"""Upload APIs: the one that the files of the xdist group `uploads-bad-input` share, and one that records requests.

Other files make a `system` of their own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import images, upload_api
from tests.support.processes import need
from tests.support.servers.recording_api import VERSION, RecordingApi
from tests.support.upload_api import PATH, System


@pytest.fixture(scope="session", params=["local", pytest.param("versitygw", marks=pytest.mark.real_s3)])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Yield the API with deletes on, over each S3 server, with a published version at PATH."""
    folder = tmp_path_factory.mktemp(request.param)
    with upload_api.system(request.param, folder, AllowDeletes="true") as running:
        for name, content in images.split_image(seed="published").items():
            running.put(f"{PATH}/{name}", content)
        running.ingest(PATH)
        assert running.status(PATH)["status"] == "listed"
        yield running


@pytest.fixture
def version(request: pytest.FixtureRequest) -> str:
    """Return a separate version for each test."""
    name = "".join(c for c in request.node.name.lower() if c.isalnum())[-90:]
    return f"images/test/{name}/amd64/default/20261123_10:00"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """Yield an API that has and lists `image.tar.gz`, which is in the test's folder. It records the requests."""
    need("curl")
    content = images.unified_tarball()
    (tmp_path / "image.tar.gz").write_bytes(content)
    name, digest = f"{VERSION}/lxd_combined.tar.gz", upload_api.sha256(content)
    listed = f"status listed\nalias signed/one\nfile {len(content)} {digest} lxd_combined.tar.gz\n"
    RecordingApi.seen, RecordingApi.once = [], {}
    RecordingApi.answers = {
        "/uploads/batch": (201, f"# upload present {len(content)} {name}\n"),
        "/versions/": (200, listed),
        "/token": (200, '{"count":1,"value":"a.github.token"}'),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), RecordingApi)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file with a line for each pause. Pauses take no time."""
    programs, pauses = tmp_path / "programs", tmp_path / "pauses"
    programs.mkdir()
    pauses.touch()
    (programs / "sleep").write_text(f'#!/bin/sh\necho "$1" >>{pauses}\n')
    (programs / "sleep").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return pauses
