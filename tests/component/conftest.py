"""The upload API that the files of the xdist group `uploads-bad-input` share.

Other files make a `system` of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import images, upload_api
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
