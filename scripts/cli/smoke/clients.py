"""List and export the image with the real client, if it is installed. Its own configuration is left alone."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.smoke.run import Failed, Run, Skipped
from imageserver.format.wording import counted

LONGEST_S: Final = 120
REMOTE: Final = "smoke-test"
VARIABLES: Final = {"lxc": "LXD", "incus": "INCUS"}
"""Client -> the prefix of its environment variables."""
METADATA_FTYPES: Final = {"lxc": "lxd", "incus": "incus"}


@dataclass(frozen=True)
class Client:
    """A client with its own configuration in `folder`, in which the server is REMOTE."""

    program: str
    folder: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str) -> str:
        """Run the client. Raise Failed with its error output, or if it takes too long."""
        try:
            done = subprocess.run(
                (self.program, *arguments),
                env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                timeout=LONGEST_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{self.program} {arguments[0]} {arguments[1]} took more than {LONGEST_S} s") from error
        if done.returncode != 0:
            raise Failed(f"{self.program} {' '.join(arguments)}: {' '.join(done.stderr.split())}")
        return done.stdout


def check_with(program: str) -> Callable[[Run], str]:
    """Return the check with `lxc` or `incus`."""

    def check(run: Run) -> str:
        found = usable(program)
        if not run.server.address.startswith("https://"):
            raise Skipped("the clients take only https")
        if run.server.clients and METADATA_FTYPES[program] not in run.server.clients:
            raise Skipped(f"the stack was deployed for {', '.join(run.server.clients)}")
        # Another server of the edge may still have the index of half a minute ago.
        return run.wait(lambda: _listed_and_exported(found, run), lambda: f"{program} does not list the image")

    return check


def usable(program: str) -> str:
    """Return the path of the client. Raise Skipped if none takes its configuration from the environment."""
    found = shutil.which(program)
    if found is None:
        raise Skipped("not installed")
    real = Path(found).resolve()
    with real.open("rb") as file:
        is_script = file.read(2) == b"#!"
    # The snap's lxc would write into the user's own configuration, and Ubuntu's stand-in would install the snap.
    if real.name == "snap" or is_script:
        raise Skipped(f"{found} is not the client itself, but a snap or a script")
    return found


def _listed_and_exported(program: str, run: Run) -> str | None:
    """Return the version of the client; None while it does not list the image."""
    with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
        client = _client(program, Path(folder), run.server.ca_file)
        client("remote", "add", REMOTE, run.server.address, "--protocol", "simplestreams")
        listed = json.loads(client("image", "list", f"{REMOTE}:", "--format", "json"))
        if run.image.fingerprint not in {image["fingerprint"] for image in listed}:
            return None
        exported = client.folder / "exported"
        exported.mkdir()
        client("image", "export", f"{REMOTE}:{run.image.fingerprint}", str(exported))
        got = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in exported.iterdir())
        if got != sorted(hashlib.sha256(body).hexdigest() for body in run.image.files.values()):
            raise Failed(f"{program} exports {counted(len(got), 'file')} with other digests than were uploaded")
        return f"{client('version').strip().splitlines()[0]}, {counted(len(listed), 'image')}"


def _client(program: str, folder: Path, ca_file: str) -> Client:
    for name in ("conf", "no-daemon"):
        (folder / name).mkdir()
    prefix = VARIABLES[Path(program).name]
    own = {
        f"{prefix}_CONF": str(folder / "conf"),
        f"{prefix}_DIR": str(folder / "no-daemon"),  # or it would look for one of this machine
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    trust = {"SSL_CERT_FILE": ca_file} if ca_file else {}
    return Client(program, folder, {**os.environ, **own, **trust})
