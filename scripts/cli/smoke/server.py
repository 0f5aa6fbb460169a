"""The server under test, and its caller. No other module of the smoke test looks for servers or credentials."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import NoCredentialsError

from cli.admin.deployment import Deployment, open_local, open_stack
from cli.smoke.web import Answer, Web
from imageserver.storage.port import Store

API_PATIENCE: Final = 3
"""How many times a busy API is asked."""


@dataclass(frozen=True)
class Server:
    """One server: `address` is what clients know, `api` the address of the upload API; neither ends in a slash."""

    deployment: Deployment
    address: str
    api: str
    web: Web
    pause: Callable[[float], object] = time.sleep

    @property
    def store(self) -> Store:
        """The bucket, with the operator's credentials."""
        return self.deployment.store

    @property
    def ca_file(self) -> str:
        """The private certificate authority of the edge, if it is known here; empty: the usual ones are trusted."""
        return self.deployment.ca_file

    @property
    def clients(self) -> tuple[str, ...]:
        """The clients that the stack was deployed for; empty if that is not known."""
        return self.deployment.deployed_for

    def get(self, path: str) -> Answer:
        """Fetch a path through the edge as Go's HTTP client does, which always accepts gzip."""
        return self.web.ask(f"{self.address}/{path}", headers={"Accept-Encoding": "gzip"})

    def call(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Send a request to the API as this operator. Repeat it while the API is busy."""
        url = f"{self.api}/{path}"
        about = {"Content-Type": "application/json"} if body is not None else {}
        for attempt in range(API_PATIENCE):
            answer = self.web.ask(url, method, {**about, **self._signature(method, url, body, about)}, body)
            if answer.status not in (429, 502, 503, 504):
                break
            self.pause(2**attempt)
        return answer

    def _signature(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers that identify the caller: a bearer token or SigV4, or for the local stack a name."""
        if token := os.environ.get("SIMPLESTREAMS_TOKEN", ""):
            return {"Authorization": f"Bearer {token}"}
        if self.deployment.endpoint:
            return {"X-Local-Caller": "local"}
        session: Any = self.deployment.session
        if (credentials := session.get_credentials()) is None:
            raise NoCredentialsError
        request = AWSRequest(method, url, data=body or b"", headers=dict(headers))
        SigV4Auth(credentials, "execute-api", session.region_name).add_auth(request)
        return dict(request.headers.items())


def find(stack: str, state_dir: Path | None, address: str, api: str) -> Server:
    """Return the deployed stack of that name, else the running local stack. Exit with a sentence if there is none.

    `address` and `api` override the addresses of the stack.
    """
    found = open_stack(stack) if stack else open_local(state_dir)
    return Server(found, (address or found.edge).rstrip("/"), (api or found.api).rstrip("/"), Web(found.ca_file))
