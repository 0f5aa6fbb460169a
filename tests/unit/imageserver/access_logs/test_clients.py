"""Which client a User-Agent belongs to."""

import pytest

from imageserver.access_logs.clients import Client, client_of


@pytest.mark.parametrize(
    ("user_agent", "client"),
    [
        ("LXD 5.0.2 (Linux; x86_64; 6.18.44; Debian GNU/Linux; 12)", Client("lxd", "5.0.2")),  # as seen in a log
        ("LXD 5.21.3 LTS (Linux; x86_64; 6.8.0-49-generic; Ubuntu; 24.04) (zfs 2.2.2)", Client("lxd", "5.21.3")),
        ("LXD 6.2 (Linux; aarch64; 6.8.0; Ubuntu Core; 24)", Client("lxd", "6.2")),
        ("Incus 6.0.4 (Linux; x86_64; 6.12.0; Debian GNU/Linux; 13) (dir 1)", Client("incus", "6.0.4")),
        ("LXD 5.0.2.3.4", Client("other")),
        ("LXD 12345", Client("other")),
        ("serverless-simplestreams-mirror (+https://images.example.org)", Client("mirror")),
        ("serverless-simplestreams-import", Client("import")),
        ("curl/8.5.0", Client("curl")),
        ("Wget/1.21", Client("wget")),
        ("Mozilla/5.0 (X11; Linux x86_64)", Client("browser")),
        ("Go-http-client/2.0", Client("other")),
        ("-", Client("unknown")),
        ("", Client("unknown")),
    ],
)
def test_only_lxd_and_incus_have_a_version(user_agent: str, client: Client) -> None:
    assert client_of(user_agent) == client
