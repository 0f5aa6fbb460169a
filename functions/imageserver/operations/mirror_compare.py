"""Compare another image server with this one, product by product, and plan what a mirror does. Nothing is written.

One document of the other server is in memory at a time, beside what this server has of one release.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Final

from imageserver.errors import OutOfTime, UpstreamRefused
from imageserver.format import documents as catalog
from imageserver.format.documents import INDEX_KEY
from imageserver.format.keys import ProductId, parse_version
from imageserver.operations.channel_needs import needed_by_channels
from imageserver.operations.inventory import record_of
from imageserver.operations.runs import Run
from imageserver.operations.view_documents import Views, no_views
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store
from imageserver.upstream.filters import parse_filter
from imageserver.upstream.mapping import LeftOut, UpstreamFile, UpstreamVersion, mapped
from imageserver.upstream.mirrors import HeldVersion, Mirror, MirrorState, SeenDocument
from imageserver.upstream.plan import (
    LocalProduct,
    ProductPlan,
    Rules,
    no_longer_taken,
    plan_product,
    refusal_of,
    seen,
)
from imageserver.upstream.port import Document, Upstream
from imageserver.upstream.simplestreams import products_paths

MOST_LEFT_OUT: Final = 50
"""The most sentences about versions and files that cannot be copied."""


@dataclass(slots=True)
class Comparison:
    """The result of a comparison: the documents as seen, a plan for each product, and what cannot be copied.

    `has_unknown`: upstream has a product that cannot be read, and nobody knows which one it would be here.
    """

    index_etag: str
    documents: dict[str, SeenDocument] = field(default_factory=dict)
    plans: dict[ProductId, ProductPlan] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    left_out_total: int = 0
    has_unknown: bool = False

    @property
    def missing(self) -> tuple[UpstreamFile, ...]:
        """The files to copy."""
        return tuple(file for plan in self.plans.values() for file in plan.missing)

    @property
    def held(self) -> dict[str, HeldVersion]:
        """The versions that the mirror holds from now on."""
        return {path: held for plan in self.plans.values() for path, held in plan.held.items()}

    def leave_out(self, found: Iterable[LeftOut]) -> None:
        """Note something that cannot be copied."""
        for one in found:
            self.left_out_total += 1
            if len(self.left_out) < MOST_LEFT_OUT:
                self.left_out.append(f"{one.name} {one.reason}")


class Reader:
    """Another server's documents. A document that was read to see whether it changed is not requested again."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._changed: dict[str, Document] = {}

    def is_unchanged(self, state: MirrorState) -> bool:
        """Return whether no document has changed since a state: one conditional request each, until one has."""
        etags = {INDEX_KEY: state.index_etag} | {path: one.etag for path, one in state.documents.items()}
        for path, etag in etags.items():
            document = self._upstream.document(path, etag)
            if document is not None:
                self._changed[path] = document
                return False
        return True

    def read(self, path: str) -> Document:
        """Return a document. Errors as of Upstream."""
        document = self._changed.pop(path, None) or self._upstream.document(path)
        if document is None:
            raise UpstreamRefused(
                f"{path} was requested without a condition, and upstream answers that it is unchanged"
            )
        return document


class Comparer:
    """Compares the mirror of this name. `of_others` are the versions that other mirrors hold; `run` bounds its time.

    `views` are read before a version leaves the list, because a version that a channel points to stays. A file of more
    than `most_bytes` is not copied; None means no limit.
    """

    def __init__(
        self,
        name: str,
        mirror: Mirror,
        state: MirrorState,
        of_others: Collection[str],
        store: Store,
        run: Run,
        now: datetime,
        most_bytes: int | None = None,
        views: Views = no_views,
    ) -> None:
        self._mirror, self._state, self._run, self._now = mirror, state, run, now
        filters = tuple(map(parse_filter, mirror.only))
        self._rules = Rules(filters, mirror.keep, timedelta(days=mirror.grace_days), most_bytes)
        self._store, self._views = store, views
        self._bucket = _Bucket(store, DocumentCache(store).products(mirror.stream), of_others, no_longer_taken(name))
        self._held: dict[ProductId, dict[str, HeldVersion]] = {}
        for path, held in state.held.items():
            self._held.setdefault(parse_version(path).product, {})[path] = held

    def compare(self, reader: Reader, *, accept: bool) -> Comparison:
        """Plan every product. A product that cannot be compared is noted in the run and stays as it is.

        Raise OutOfTime, and UpstreamRefused if upstream must not be followed unless an operator accepts it.
        """
        index = reader.read(INDEX_KEY)
        compared = Comparison(index.etag)
        for path in products_paths(index.body):
            document = reader.read(path)
            versions = self._compare_document(document, compared)
            compared.documents[path] = seen(document.body, versions, document.etag, self._now)
        is_same = self._state.mirror is not None and self._state.mirror.address == self._mirror.address
        refusal = refusal_of(compared.documents, self._state.documents if is_same and not accept else {})
        if refusal:
            raise UpstreamRefused(f"{refusal}; check it, and if it is right, run this mirror with --accept")
        for product in sorted(self._held.keys() - compared.plans.keys()):
            self._plan(product, (), compared, self._held[product] if compared.has_unknown else ())
        return compared

    def _compare_document(self, document: Document, compared: Comparison) -> int:
        """Plan the products of one document. Return how many of its versions could be copied."""
        count = 0
        every = mapped(document.body, self._mirror.stream, document.signed_by)
        by_product = groupby(every, lambda one: one.id.product if isinstance(one, UpstreamVersion) else one.product)
        for product, found in by_product:
            group = list(found)
            versions = [one for one in group if isinstance(one, UpstreamVersion)]
            count += len(versions)
            if product and not (product in self._held or any(one.takes_of(product) for one in self._rules.filters)):
                continue
            left_out = [one for one in group if isinstance(one, LeftOut)]
            broken = [one for one in left_out if one.is_broken]
            compared.leave_out(left_out)
            compared.has_unknown |= product is None and bool(broken)
            if product and versions and product in compared.plans:
                compared.leave_out([LeftOut(product.path, "is in two documents of upstream; the first one counts")])
            elif product and (versions or broken) and product not in compared.plans:
                read = [one.version.path for one in broken if one.version]
                unknown = read if len(read) == len(broken) else self._held.get(product, ())
                self._plan(product, versions, compared, unknown)
        return count

    def _plan(
        self,
        product: ProductId,
        versions: Sequence[UpstreamVersion],
        compared: Comparison,
        unknown: Collection[str],
    ) -> None:
        if not self._run.time_left():
            raise OutOfTime("the run ended before all products were compared; narrow the filters of this mirror")
        held = self._held.get(product, {})
        compared.plans[product] = ProductPlan((), {}, (), (), held, ())
        with self._run.looking_at(product.path):
            here = self._bucket.here(product, held)
            rules, now = self._rules, self._now
            plan = plan_product(product, versions, here, held, rules, now, unknown)
            if plan.delist and (needed := needed_by_channels(self._store, self._views, product)):
                here = replace(here, needed=needed)
                plan = plan_product(product, versions, here, held, rules, now, unknown)
            compared.plans[product] = plan
            compared.leave_out(compared.plans[product].left_out)


@dataclass(slots=True)
class _Bucket:
    """What this server has of a stream. One listing serves all products of a release, which are adjacent in documents.

    `reason` is the one that this mirror gives for its withdrawals.
    """

    store: Store
    listed: catalog.Products
    of_others: Collection[str]
    reason: str
    _below: str = ""
    _files: dict[str, int] = field(default_factory=dict)

    def here(self, product: ProductId, held: Mapping[str, HeldVersion]) -> LocalProduct:
        """Return what this server has of a product.

        Only records of held versions that are not plainly listed are read.
        """
        below = f"{product.stream}/{product.os}/{product.release}/"
        if below != self._below:
            self._files = {i.key: i.size_bytes for i in self.store.list(below) if not i.key.endswith("/")}
            self._below = below
        prefix = f"{product.path}/"
        files = {key: size for key, size in self._files.items() if key.startswith(prefix)}
        listed = {f"{prefix}{version}" for version in catalog.versions_of(self.listed, product.name)}
        there = LocalProduct(files, listed).versions & held.keys()
        doubtful = sorted(path for path in there if path not in listed or held[path] != HeldVersion())
        recorded = in_parallel(partial(record_of, self.store), map(parse_version, doubtful)) if doubtful else []
        found = zip(doubtful, recorded, strict=True)
        withdrawn = {path: record.withdrawn for path, record in found if record and record.withdrawn}
        refused = {path for path, one in withdrawn.items() if one.reason != self.reason}
        return LocalProduct(files, listed, withdrawn.keys(), self.of_others, refused=refused)
