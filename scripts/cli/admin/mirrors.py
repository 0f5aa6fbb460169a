"""The work of `scripts/admin mirror`: compare on this machine as the scheduled function does, and request copies."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import costs
from cli.admin.deployment import Deployment
from cli.admin.proxied import ProxiedConnections, trust
from imageserver.aws.queues import send_all
from imageserver.errors import InvalidMirror, UpstreamRefused
from imageserver.format.documents import INDEX_KEY, versions_of
from imageserver.format.keys import ProductId, parse_version
from imageserver.format.wording import counted
from imageserver.operations import withdraw as withdrawals
from imageserver.operations.mirror_documents import (
    announce,
    configured,
    forget,
    refusals_of,
    state_of,
    status_of,
    unconfigure,
)
from imageserver.operations.mirror_plan import Followed, MirrorServices, follow
from imageserver.operations.mirror_signatures import trusted
from imageserver.operations.promotion import Moved, moved, shown_by_channels
from imageserver.operations.runs import Run
from imageserver.remote.server import RemoteServer
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.port import Store
from imageserver.upstream import messages
from imageserver.upstream.addresses import host_of
from imageserver.upstream.mapping import UpstreamFile
from imageserver.upstream.mirrors import Mirror
from imageserver.upstream.port import Upstream
from imageserver.upstream.signatures import fingerprints
from imageserver.upstream.simplestreams import products_paths
from imageserver.views.catalogs import private_streams

CREATE: Final = "./scripts/admin view create"
FOLLOWS: Final = "deploy it with MirrorSchedule, such as `rate(1 hour)`"


@dataclass(frozen=True)
class Row:
    """One mirror as `list` and `show` print it. `lag_s` is None before the first comparison."""

    name: str
    address: str
    stream: str
    only: tuple[str, ...]
    keep: int | None
    grace_days: int
    allow_private: bool
    connections: int
    bytes_per_s: int | None
    keys: tuple[str, ...]
    looked: str
    compared: str
    in_step: str
    lag_s: int | None
    products: int
    versions: int
    missing: int
    missing_bytes: int
    error: str
    left_out: tuple[str, ...]
    left_out_total: int
    asked: dict[str, str]
    refused: dict[str, str]

    @property
    def state(self) -> str:
        """The state in a few words."""
        if not self.looked:
            return "not compared yet"
        if self.error:
            return "failed"
        return f"{counted(self.missing, 'file')} missing" if self.missing else "in step"

    @property
    def lag(self) -> str:
        """The lag in hours and minutes; a dash before the first comparison."""
        return "-" if self.lag_s is None else f"{self.lag_s // 3600} h {self.lag_s // 60 % 60} min"

    @property
    def as_json(self) -> dict[str, Any]:
        """The row with its state, for a program."""
        return {**asdict(self), "state": self.state}


@dataclass(frozen=True)
class Listed:
    """How many of a mirror's versions are `listed` now. The others are still to be listed, or are off the list."""

    listed: int
    held: int


@dataclass(frozen=True)
class Shown:
    """Where a stream is shown: in the public catalog, and in which views; `newest` are channels that follow it."""

    is_public: bool
    views: tuple[str, ...]
    newest: tuple[str, ...]


def shown(deployment: Deployment, stream: str) -> Shown:
    """Return where a stream is shown."""
    views = deployment.views()
    showing = sorted(name for name, view in views.items() if stream in view.streams)
    newest = tuple(name for name in showing if views[name].follows_newest)
    return Shown(stream not in private_streams(views.values()), tuple(showing), newest)


def stream_of_channel(deployment: Deployment, name: str, wanted: str | None) -> str:
    """Return the stream through which versions enter a channel and no public catalog. Raise InvalidMirror.

    It is the channel's only stream unless `wanted` names one.
    """
    channel = deployment.views().get(name)
    if channel is None:
        raise InvalidMirror(f"there is no channel {name}: {CREATE} {name} --channel --newest --streams images-{name}")
    if not channel.follows_newest:
        raise InvalidMirror(
            f"{name} shows what is promoted to it and nothing by itself; name a channel that was made with --newest"
        )
    if wanted is None and len(channel.streams) > 1:
        raise InvalidMirror(f"the channel {name} shows {' and '.join(channel.streams)}: choose one with --into")
    stream = wanted or channel.streams[0]
    if stream not in channel.streams:
        raise InvalidMirror(f"the channel {name} does not show {stream}, expected {' or '.join(channel.streams)}")
    if shown(deployment, stream).is_public:
        raise InvalidMirror(
            f"{stream} is in the public catalog, so the images would be public; a private view of it takes it out: "
            f"{CREATE} NAME --private --streams {stream}"
        )
    return stream


def rows(store: Store) -> list[Row]:
    """Return every mirror, by name. Raise CatalogDamaged."""
    return [row(store, name, mirror) for name, mirror in sorted(configured(store).items())]


def row(store: Store, name: str, mirror: Mirror) -> Row:
    """Return one mirror with how its comparisons went. Raise CatalogDamaged."""
    status = status_of(store, name)
    return Row(
        name=name,
        address=mirror.address,
        stream=mirror.stream,
        only=mirror.only,
        keep=mirror.keep,
        grace_days=mirror.grace_days,
        allow_private=mirror.allow_private,
        connections=mirror.connections,
        bytes_per_s=mirror.bytes_per_s,
        keys=fingerprints(mirror.keyring) if mirror.keyring else (),
        looked=status.looked,
        compared=status.compared,
        in_step=status.in_step,
        lag_s=round(status.lag_s(datetime.now(UTC))) if status.looked else None,
        products=status.products,
        versions=status.versions,
        missing=status.missing,
        missing_bytes=status.missing_bytes,
        error=status.error,
        left_out=status.left_out,
        left_out_total=status.left_out_total,
        asked=status.asked,
        refused={key: one.reason for key, one in refusals_of(store, name).items() if key in status.asked},
    )


def check_upstream(deployment: Deployment, mirror: Mirror) -> None:
    """Read the index of the other server. Raise UpstreamRefused if clients would find no images there."""
    server = _connect(deployment, mirror)
    index = server.document(INDEX_KEY)
    if index is None or not products_paths(index.body):
        raise UpstreamRefused(f"its {INDEX_KEY} names no products document of images")


def compare(
    deployment: Deployment, mirrors: Mapping[str, Mirror], name: str, run: Run, *, accept: bool = False
) -> Followed:
    """Compare one mirror on this machine, and have the copy function copy the missing files.

    Failures are recorded in `run`.
    """

    def ask(name: str, files: Sequence[UpstreamFile]) -> None:
        bodies = (messages.encode(messages.message_of(name, file)) for file in files)
        send_all(deployment.sqs, deployment.copies_queue, bodies)

    services = MirrorServices(
        store=deployment.store,
        connect=lambda mirror: _connect(deployment, mirror),
        ask=ask,
        now=lambda: datetime.now(UTC),
        pause=time.sleep,
        grace_hours=deployment.rules.grace_hours,
        most_bytes=deployment.max_bytes,
        views=deployment.views,
    )
    (followed,) = follow(mirrors, services, run, [name], accept=accept)
    if not run.dry_run:
        announce(deployment.store, mirrors, time.sleep, deployment.views)
    return followed


def _connect(deployment: Deployment, mirror: Mirror) -> Upstream:
    hosts = {host_of(mirror.address), *mirror.hosts}
    ways = ProxiedConnections(hosts, mirror.allow_private, mirror.connections, trust())
    server = RemoteServer(mirror, deployment.edge or deployment.bucket, connections=ways)
    return trusted(server, mirror.keyring, lambda: datetime.now(UTC))


def listed_now(store: Store, name: str, mirror: Mirror) -> Listed:
    """Return how many of a mirror's versions are in the current catalog. Raise CatalogDamaged."""
    held = [parse_version(path) for path in state_of(store, name).held]
    catalog = DocumentCache(store).products(mirror.stream)
    names = {one.product.name: versions_of(catalog, one.product.name) for one in held}
    return Listed(sum(one.version in names[one.product.name] for one in held), len(held))


def held(deployment: Deployment, name: str) -> list[str]:
    """Return the paths of the versions that a mirror copied and has not withdrawn."""
    return sorted(path for path, one in state_of(deployment.store, name).held.items() if not one.delisted)


def remove(deployment: Deployment, name: str, *, withdraw: bool) -> list[Moved]:
    """Stop following a server. Return the channels that showed one of the withdrawn versions.

    The configuration goes first: otherwise a copy that is still under way would bring a version back after its
    withdrawal. The list of held versions goes last, so that a failed removal can be repeated.
    """
    others = unconfigure(deployment.store, name, time.sleep)
    paths = held(deployment, name) if withdraw else []
    before = _shown(deployment, paths)
    for path in paths:
        withdrawals.withdraw(
            deployment.store, parse_version(path), datetime.now(UTC), deployment.rules.grace_hours, time.sleep,
            f"the mirror {name} was removed",
        )  # fmt: skip
    forget(deployment.store, name)
    announce(deployment.store, others, time.sleep, deployment.views)
    after = _shown(deployment, paths)
    return [one for product in before for one in moved(product, before[product], after[product])]


def _shown(deployment: Deployment, paths: Sequence[str]) -> dict[ProductId, dict[str, str]]:
    """Return what each channel shows of the products of these versions."""
    views = list(deployment.views().values())
    products = sorted({parse_version(path).product for path in paths})
    return {product: shown_by_channels(deployment.store, views, product) for product in products}


def plan_as_json(followed: Followed, run: Run) -> dict[str, Any]:
    """Return what a comparison found, for a program."""
    status = followed.status
    return {
        "mirror": followed.name,
        "dry_run": run.dry_run,
        "unchanged": followed.unchanged,
        "products": status.products,
        "versions": status.versions,
        "files": status.missing,
        "bytes": status.missing_bytes,
        "delisted": status.delisted,
        "left_out": status.left_out,
        "left_out_total": status.left_out_total,
        "tasks": [asdict(task) for task in run.tasks],
        "error": status.error,
        **asdict(costs.mirrored(status.missing, status.missing_bytes)),
    }
