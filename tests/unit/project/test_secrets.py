"""No printed or run command passes a secret to curl as an argument, which everybody on the machine can read.

Secrets are passed in a file that only its owner can read, or on standard input (`-K -`). The tests of scripts/upload
check the arguments that it really gives to curl.
"""

from __future__ import annotations

import re

import pytest

from cli.presign import presign
from tests.support import PROJECT

SOURCES = sorted(
    path
    for pattern in ("*.md", ".github/**/*", "functions/**/*", "infra/**/*", "scripts/**/*", "tests/README.md")
    for path in PROJECT.glob(pattern)
    if path.is_file() and path.suffix in ("", ".md", ".py", ".js", ".html", ".yml", ".yaml", ".sh")
)
SECRET = re.compile(
    r"""(?:^|\s)(?:-u|--user|--proxy-user|--oauth2-bearer|--pass|-b|--cookie)[ =]
    |(?:authorization|security-token|x-amz-signature|api-key)[ :=]
    |\$\{?[A-Z_]*(?:SECRET|TOKEN|PASSWORD)(?!_REQUEST_URL)
    |https?://[^/\s'"]+:[^/\s'"]+@""",
    re.IGNORECASE | re.VERBOSE,
)
"""What an argument of curl must not hold. GitHub's address for tokens is a variable, and is not secret."""
CURL = re.compile(r"(?:^|[\s`\"'($;|])curl\s+(-[^\n`]*|\"?https?:[^\n`]*|[^\n`]*\$[^\n`]*)")


def commands(text: str) -> list[str]:
    """Return the arguments of each curl command in a text, including continuation lines."""
    return [found[1] for found in CURL.finditer(re.sub(r"\\\n\s*", " ", text))]


@pytest.mark.parametrize(
    "command",
    [
        "curl -u user:password https://images.example.org",
        "curl --aws-sigv4 aws:amz \\\n  --user \"$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY\" https://api",
        "curl -H \"Authorization: Bearer $TOKEN\" $API/uploads",
        "curl -H 'x-amz-security-token: x' $API",
        "`curl -T lxd.tar.xz 'https://b.s3.amazonaws.com/x?X-Amz-Signature=0'`",
        "echo x | curl -x http://user:password@proxy:3128 https://images.example.org",
    ],
)  # fmt: skip
def test_a_secret_in_an_argument_is_found(command: str) -> None:
    assert any(SECRET.search(arguments) for arguments in commands(command))


def test_no_command_of_ours_hands_a_secret_to_curl_as_an_argument() -> None:
    found = {path: commands(path.read_text()) for path in SOURCES}
    assert sum(map(len, found.values())) > 10
    for path, several in found.items():
        for arguments in several:
            assert not SECRET.search(arguments), f"{path.relative_to(PROJECT)}: curl {arguments}"


def test_the_line_of_presign_has_its_url_in_no_argument_of_a_program() -> None:
    class Client:
        def generate_presigned_url(self, *_: object, **_options: object) -> str:
            return "https://b.s3.amazonaws.com/x?X-Amz-Signature=0"

    line = presign(Client(), "b", "images/a/1/amd64/default/20261123/lxd.tar.xz", 60, overwrite=False).curl
    (arguments,) = commands(line)
    assert not SECRET.search(arguments)
    assert line.startswith("echo "), "which the shell does by itself"
