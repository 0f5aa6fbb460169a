"""`admin doctor` and servers that do not answer as they should."""

from http.server import BaseHTTPRequestHandler

import pytest

from cli.admin import doctor
from cli.admin.faults import WAY
from cli.admin.place import Place
from tests.support.servers.http import served


class SshServer(BaseHTTPRequestHandler):
    """A server that speaks no HTTP."""

    def do_GET(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def test_the_doctor_reports_an_api_that_does_not_answer_in_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"api": doctor.CHECKS["api"]})
    with served(SshServer) as port:
        (checked,) = doctor.examine(Place(None, "images-1", api=f"http://127.0.0.1:{port}"))
    (finding,) = checked.findings
    assert "BadStatusLine" in finding.what
    assert finding.remedy == WAY
