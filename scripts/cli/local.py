"""`scripts/local`: the whole system on this machine."""

import shlex
import shutil
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cli import network
from cli.folders import default_state_folder
from cli.presign import presign as presigned
from local_stack.errors import LocalStackError
from local_stack.sample import VERSION, host_architecture, sample_files
from local_stack.stack import LocalStack, Options

LONGEST_START_S = 60
"""How long the sample's listing and the first run of the schedules may take."""
CACHES = {"lxd": "/var/snap/lxd/common/lxd/cache/* /var/cache/lxd/*", "incus": "/var/cache/incus/*"}
"""Where the daemons of each kind keep a catalog: LXD's from the snap and from other packages."""
NO_XDELTA3 = """Deltas are on, and this machine has no xdelta3: none is made. On Debian and Ubuntu:
  sudo apt install xdelta3
"""


def _parameters(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    for text in given:
        if "=" not in text:
            raise click.BadParameter(f"{text!r} is not Name=Value")
    return dict(text.split("=", 1) for text in given)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 stopped by Ctrl-C or SIGTERM; 2 wrong usage; 3 template cannot be wired; 4 port in use; "
    "5 the state folder is in use by another local stack; 1 anything else.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8443, show_default=True, help="HTTPS port; 0 is any.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Where stack.json, the certificate authority and the logs are kept.  [default: .local in the project folder]",
)
@click.option("--empty", is_flag=True, help="Do not add the sample image hello/world.")
@click.option(
    "--digest-workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Versions hashed at once."
)
@click.option("--publish-workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Folds at once.")
@click.option(
    "--full-windows", is_flag=True, help="Gather batches as long as the template says, instead of 1 s at most."
)
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_parameters,
    help="A parameter of infra/template.yaml, for example DigestTimeout=30. Repeatable.",
)
@click.option(
    "--functions-endpoint",
    default="",
    metavar="URL",
    help="The address that functions use for S3 and SQS: your own proxy in front of them, to watch or break requests.",
)
def main(
    port: int,
    state_dir: Path | None,
    empty: bool,
    digest_workers: int,
    publish_workers: int,
    full_windows: bool,
    parameters: dict[str, str],
    functions_endpoint: str,
) -> None:
    """Run the image server on this machine: S3, queues, functions and CloudFront over HTTPS, until Ctrl-C.

    Images and catalog live in memory and temporary files and are gone when it stops; the certificate authority is
    kept, so trust given once lasts. stack.json exists while it runs.
    """
    network.reach_loopback_directly()
    options = Options(
        port=port,
        state_folder=(state_dir or default_state_folder()).absolute(),
        parameters={
            "Publishers": '{"arn:aws:iam::123456789012:user/local":["images*"]}',
            "MirrorSchedule": "rate(1 hour)",
            **parameters,
        },
        limits={
            "DigestFunction": digest_workers,
            "PublishFunction": publish_workers,
            "UploadsFunction": 4,
        },
        full_windows=full_windows,
        functions_endpoint=functions_endpoint,
    )
    try:
        _serve(options, sample=not empty)
    except LocalStackError as error:
        click.echo(f"local: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if not _is_of(options.state_folder, error):
            raise
        advice = "look at its rights and the room on its disk, or choose another --state-dir"
        click.echo(f"local: {error.filename} cannot be used ({error.strerror}); {advice}", err=True)
        sys.exit(LocalStackError.exit_code)


def _serve(options: Options, *, sample: bool) -> None:
    """Run the stack until Ctrl-C or SIGTERM; say how to use it once it is ready, with or without the sample image."""
    console = Console(highlight=False, soft_wrap=True)
    stopping = _stop_on_signals()
    with LocalStack(options, console) as local:
        if sample:
            seed(local, console, stopping)
        # The first run of maintain lays out an empty server: index, page.
        _wait(local.scheduler.has_run, stopping)
        if not stopping.is_set():
            local.announce()
            console.print(instructions(local, options, sample=sample), markup=False)
            if "DeltaFunction" in local.wiring.functions and not shutil.which("xdelta3"):
                console.print(NO_XDELTA3, style="yellow", markup=False)
        while not stopping.wait(1):
            local.check()
        console.print("stopping", style="dim")


def _is_of(folder: Path, error: OSError) -> bool:
    """Return whether an error is about the state folder, what is in it, or the folders that it lies in."""
    if not isinstance(error.filename, str) or error.strerror is None:
        return False
    file = Path(error.filename)
    return file.is_relative_to(folder) or folder.is_relative_to(file)


def _stop_on_signals() -> threading.Event:
    """Return an event that Ctrl-C and SIGTERM set. A second signal ends the process as usual."""
    stopping = threading.Event()

    def stop(number: int, _frame: Any) -> None:
        stopping.set()
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return stopping


def seed(local: LocalStack, console: Console, stopping: threading.Event) -> None:
    """Upload the sample image as a publisher would, and wait until it is listed."""
    arch = host_architecture()
    for key, body in sample_files(arch).items():
        wanted = presigned(local.s3, local.stack.bucket, key, expires_s=60, overwrite=False)
        upload = urllib.request.Request(wanted.url, body, wanted.headers, method="PUT")
        with urllib.request.urlopen(upload, timeout=60):
            pass
    listed = f"hello:world:{arch}:default"
    if not _wait(lambda: local.lists("streams/v1/images.json", listed, VERSION), stopping):
        console.print(f"The sample image was not listed within {LONGEST_START_S} s; see the logs.", style="red")


def _wait(condition: Callable[[], bool], stopping: threading.Event) -> bool:
    """Return whether the condition held in time; also True once a signal asked to stop."""
    give_up = time.monotonic() + LONGEST_START_S
    while time.monotonic() < give_up:
        if condition() or stopping.wait(0.1):
            return True
    return False


def instructions(local: LocalStack, options: Options, *, sample: bool) -> str:
    """Return what to type next, ready to be copied from any folder."""
    stack = local.stack
    ca, direct = shlex.quote(stack.ca_file), network.past_proxy()
    scripts = Path(__file__).resolve().parent.parent
    presign, upload = (shlex.quote(str(scripts / name)) for name in ("presign", "upload"))
    if options.state_folder != default_state_folder():
        where = f"--state-dir {shlex.quote(str(options.state_folder))}"
        presign, upload = f"{presign} {where}", f"{upload} {where}"
    key = "images/alpine/3.22/amd64/default/20261123_1000/"
    caches = " ".join(CACHES[client] for client in CACHES if _serves(options, client))
    clients = "".join(_client(client, stack.base_url, sample) for client in CACHES if _serves(options, client))
    return f"""
Serving {stack.base_url}  (Ctrl-C stops it; logs in {options.state_folder / "logs"})

Upload the files of a version, in any order; it is listed seconds after the last one:
  {presign} {key}lxd.tar.xz {key}rootfs.squashfs
  and run the curl lines that it prints, with every -H. Or a folder of them at once:
  {upload} --to alpine/3.22/amd64/default FOLDER

Read the catalog:
  curl {direct}--cacert {ca} {stack.base_url}/streams/v1/images.json

Let LXD and Incus trust this server, once (its certificate authority stays the same):
  sudo cp {ca} /usr/local/share/ca-certificates/simplestreams-local.crt && sudo update-ca-certificates
  sudo systemctl restart lxd    # or incus: a daemon reads the trusted authorities when it starts
Only for a client command of this shell:
  export SSL_CERT_FILE={ca}
{clients}
A daemon keeps the catalog for an hour. To let it see a newer version at once, empty its cache:
  sudo sh -c 'rm -rf {caches}'

Ask for uploads as a pipeline would (upload API, caller "local"):
  curl {direct}--cacert {ca} -H 'X-Local-Caller: local' {stack.api_url}/openapi.json
"""


def _serves(options: Options, client: str) -> bool:
    return options.parameters.get("Clients", "both") in (client, "both")


def _client(client: str, base_url: str, sample: bool) -> str:
    command, name = {"lxd": ("lxc", "LXD"), "incus": ("incus", "Incus")}[client]
    lines = [f"{command} remote add mine {base_url} --protocol=simplestreams", f"{command} image list mine:"]
    if sample:
        lines.append(f"{command} launch mine:hello/world hello && {command} exec hello -- /bin/hello")
    return "\n".join([f"{name}:", *(f"  {line}" for line in lines)]) + "\n"


if __name__ == "__main__":
    main(prog_name="local")
