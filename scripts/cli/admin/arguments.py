"""The command line of `scripts/admin`: the group, the choice of a server, PATH, and --yes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from cli import network
from cli.admin import output
from cli.admin.deployment import Deployment, open_bucket, open_local, open_stack
from cli.admin.errors import EXIT_CODES, exit_on_error, show_tracebacks
from cli.folders import state_dir_option
from cli.json_errors import JsonErrorsGroup
from imageserver.errors import InvalidFilter, InvalidUpload, SimplestreamsError
from imageserver.format.keys import (
    ImageKey,
    Target,
    is_fingerprint,
    parse_target,
    path_of,
    without_file,
    without_remote,
)
from imageserver.format.wording import counted, quoted
from imageserver.operations.lookup import find_listed, find_recorded
from imageserver.settings import CLIENT_CHOICES
from imageserver.storage.document_cache import DocumentCache
from imageserver.upstream.filters import Filter, parse_filter

PRODUCT_PARTS: Final = 5
COLONS_OF_A_PRODUCT: Final = 3
FILE_PARTS: Final = 7
TAKES: Final = (
    "expected a product (images/<os>/<release>/<arch>/<variant>), a version (…/<version>) or a file "
    "(…/<version>/<file>), each with or without its stream; or a fingerprint, its first digits, or an alias of what is "
    "listed; `admin list` takes any folder"
)


@dataclass(frozen=True)
class Options:
    """The server and the form of the output, as far as the command line gives them."""

    stack: str = ""
    bucket: str = ""
    url: str = ""
    state_dir: Path | None = None
    as_json: bool = False
    debug: bool = False

    def or_else(self, other: "Options") -> "Options":
        """Return these options; what is not given here is taken from `other`."""
        return Options(*(mine or others for mine, others in zip(astuple(self), astuple(other), strict=True)))

    def open(self) -> Deployment:
        """Return the server. Raise UsageError if two are named."""
        if sum(map(bool, (self.stack, self.bucket, self.state_dir))) > 1 or (self.url and not self.bucket):
            raise click.UsageError("name one server: --stack, or --bucket with --url, or --state-dir")
        if self.url and not self.url.startswith(("https://", "http://")):
            raise click.UsageError(f"--url is {self.url!r}, expected an address such as https://images.example.org")
        if self.stack:
            return open_stack(self.stack)
        if self.bucket:
            return open_bucket(self.bucket, self.url)
        network.reach_loopback_directly()
        return open_local(self.state_dir)


_SHARED: Final = (
    click.option("--stack", default="", help="A stack in AWS, by its name, with the usual credentials and region."),
    click.option("--bucket", default="", help="A bucket in AWS whose stack is gone or not yours to ask."),
    click.option(
        "--url", default="", help="With --bucket: the address that clients know, such as https://images.example.org."
    ),
    state_dir_option,
    click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
    click.option("--debug", is_flag=True, help="Also print the traceback of each error, for a report."),
)


def common(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that may stand before or after a command's name."""
    for option in reversed(_SHARED):
        function = option(function)
    return function


@click.group(
    cls=JsonErrorsGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EXIT_CODES,
)
@common
@click.pass_context
def main(context: click.Context, /, **given: Any) -> None:
    """Look at a server, check it, repair it.

    Without --stack or --bucket it is the local stack that ./scripts/local started. Nothing is deleted, withdrawn or
    rebuilt without --yes; without it these commands print what they would do, and why. restore and reconcile
    lose nothing and act at once. With --dry-run nothing is changed, even with --yes. A PATH without its stream
    means images/. Where one image is meant, a fingerprint, its first digits or an alias does as well.

    \b
    ./scripts/admin list                                   what is there, and what is waiting for what
    ./scripts/admin show images/ubuntu/noble/amd64/default/20261123_1000
    ./scripts/admin verify --sample 20                     read 20 listed versions again and compare every digest
    ./scripts/admin doctor                                 is everything as it should be? if not, what helps?
    ./scripts/admin withdraw images/ubuntu/noble/amd64/default/20261123_1000 --reason "does not boot" --yes
    ./scripts/admin verify --through-edge --stack images
    """
    context.obj = Options(**given)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Open the deployment, pass it to the command, and end with a sentence if the command fails."""

    @common
    @wraps(function)
    @click.pass_obj
    def run(before: Options, /, *args: Any, **given: Any) -> None:
        options = Options(**{field.name: given.pop(field.name) for field in fields(Options)}).or_else(before)
        if options.debug:
            show_tracebacks()
        with exit_on_error():
            deployment = options.open()
            try:
                with deployment.requests.noted():
                    function(deployment, options.as_json, *args, **given)
            finally:  # after a failure too: part of the work may be done
                deployment.print_pending_invalidations()

    return run


def with_stream(path: str) -> str:
    """Return `images/tiny/1` for `tiny/1`, without a slash at either end. An empty path means everything.

    The name of a product, as the catalog and the page show it, is its path: `tiny:1:amd64:default`.
    """
    path = path.strip("/")
    stream, slash, name = path.rpartition("/")
    if "/" not in stream and name.count(":") == COLONS_OF_A_PRODUCT:
        path = stream + slash + name.replace(":", "/")
    first = path.partition("/")[0]
    return path if not path or first == "images" or first.startswith("images-") else f"images/{path}"


def parse_path(path: str) -> Target:
    """Return the product, version or file that a path names. Raise InvalidUpload if it names none of them."""
    path = with_stream(path)
    parts = path.count("/") + 1
    if not PRODUCT_PARTS <= parts <= FILE_PARTS:
        raise InvalidUpload(f"{quoted(path)} has {counted(parts, 'part')} between slashes, {TAKES}")
    return parse_target(path)


def folder_of(deployment: Deployment, below: str) -> str:
    """Return the path of the version that a fingerprint or a name with a remote stands for; any other path unchanged.

    Raise UsageError if several versions have the name.
    """
    name = below.removeprefix("images/")
    if not is_fingerprint(name) and without_remote(name) == name:
        return below
    try:
        target = find_target(deployment, name)
    except InvalidUpload:  # no image has it, so it may be a folder: `decade` is a valid start of a fingerprint
        return below
    return without_file(target).path


def find_target(deployment: Deployment, name: str, of_records: bool = False) -> Target:
    """Return the target of a path, a fingerprint, the start of one, or an alias, and print what it is.

    A name with a remote, as in `mine:ubuntu/noble`, is never a path. A fingerprint stands for its version, or for the
    file of its root if the version has other images. Unlisted images are looked up in the records; with `of_records` a
    fingerprint is looked up there even if a copy of the image is listed. Raise InvalidUpload if nothing has the name,
    UsageError if several versions have it.
    """
    path, image = with_stream(name), without_remote(name)
    if image == name and (path == name.strip("/") or path.count("/") + 1 >= PRODUCT_PARTS):
        return parse_path(name)
    with output.busy(f"looking for {name}"):
        found = find_listed(DocumentCache(deployment.store), image)
        if (of_records or not found) and is_fingerprint(image):
            found = find_recorded(deployment.store, image.lower()) or found
    versions = sorted({image.version for image in found})
    if not versions:
        raise InvalidUpload(f"nothing has the fingerprint or the alias {quoted(name)}; {TAKES}")
    if len(versions) > 1:
        paths = ", ".join(version.path for version in versions)
        raise click.UsageError(f"{name} means {len(versions)} versions; name one of them: {paths}")
    (version,) = versions
    files = {image.file for image in found}
    target = version if len(files) > 1 or found[0].of_images == 1 else ImageKey(version, *files)
    output.say(f"{name} is {path_of(target)}")
    return target


below_argument = click.argument(
    "below", default="", metavar="[PATH]", callback=lambda _context, _parameter, path: with_stream(path)
)


def chosen_options(doing: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add --only and --keep, which choose what a command exports or imports."""

    def filters(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[Filter, ...]:
        try:
            return tuple(map(parse_filter, texts))
        except InvalidFilter as refusal:
            raise click.BadParameter(str(refusal)) from refusal

    what = f"What to {doing}: products, fields, kinds and sizes of roots. Repeatable.  [default: all]"
    only = click.option("--only", multiple=True, metavar="FILTER", callback=filters, help=what)
    how_many = f"How many of the newest versions to {doing} of each product."
    keep = click.option("--keep", type=click.IntRange(1), help=how_many)
    return lambda function: only(keep(function))


@contextmanager
def usage_error_for(refusal: type[SimplestreamsError]) -> Iterator[None]:
    """Raise UsageError instead of a refusal: the command line asks for what cannot be."""
    try:
        yield
    except refusal as error:
        raise click.UsageError(str(error)) from error


yes_option = click.option("--yes", is_flag=True, help="Really do it.")
ignored_yes_option = click.option(
    "--yes",
    is_flag=True,
    expose_value=False,
    help="Accepted for consistency; this command never asks for confirmation.",
)
clients_option = click.option(
    "--clients",
    type=click.Choice(sorted(CLIENT_CHOICES)),
    help="Whose items the catalog carries.  [default: as the stack was deployed, else as the catalog has it]",
)
