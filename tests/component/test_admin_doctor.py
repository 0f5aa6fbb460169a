"""`admin doctor` and servers that do not answer as they should."""

from http.server import BaseHTTPRequestHandler

import pytest

from cli.admin import checks, doctor
from cli.admin.deployment import Deployment
from cli.admin.errors import WAY
from tests.support.servers.http import served


class SshServer(BaseHTTPRequestHandler):
    """A server that speaks no HTTP."""

    def do_GET(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_the_doctor_reports_an_api_that_does_not_answer_in_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECKS", {"api": checks.CHECKS["api"]})
    with served(SshServer) as port:
        (checked,) = doctor.examine(Deployment(None, "images-1", api=f"http://127.0.0.1:{port}"))
    (finding,) = checked.findings
    assert "BadStatusLine" in finding.what
    assert finding.remedy == WAY
