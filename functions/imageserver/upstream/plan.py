"""Plan what a mirror does next: which files are missing, and which of its versions leave the list. Pure.

A comparison has two steps. `refusal_of` looks at the documents as a whole. An upstream that is empty, has shrunk by
more than half or has gone back in time is not followed: nothing is copied or withdrawn. Then `plan_product` compares
one product at a time, so memory holds one product.

Versions are withdrawn late. A version that upstream or the filters no longer have, or that `keep` newer ones replaced,
stays for the grace time, and after that until a version of its product that upstream still has is listed. A version
that this mirror did not copy is never touched, whatever upstream has under its name. A version that an operator or
retention withdrew is not copied again after its files are deleted: otherwise it would be copied and deleted over and
over.

To carry out a plan, write `held` first: a file of a version that no mirror holds would be taken for a local upload. If
a run ends before the rest is done, the next plan has those steps again: a step is planned until its effect is there.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from imageserver.format.keys import FURTHEST_AHEAD, ImageKey, ProductId, VersionId, parse_key, parse_version
from imageserver.upstream import simplestreams
from imageserver.upstream.filters import Filter, chosen
from imageserver.upstream.mapping import LeftOut, UpstreamFile, UpstreamVersion, metadata_json
from imageserver.upstream.mirrors import HeldVersion, SeenDocument

_OVERRIDES_FILE: Final = "metadata.json"


@dataclass(frozen=True, slots=True)
class Rules:
    """What to take of a product, and how long a version stays once it is no longer taken.

    A file of more than `most_bytes` is not copied, because digest would refuse it; None for no limit.
    """

    filters: Sequence[Filter]
    keep: int | None
    grace: timedelta
    most_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LocalProduct:
    """What this server has of a product: sizes in bytes by key, and paths of versions.

    `listed` are the versions that its catalog lists. `withdrawn` are those whose records say so, no matter who withdrew
    them, and `refused` those withdrawn for a reason that is not this mirror's. `of_others` are those that other mirrors
    hold, whether or not a file of them is here yet. `needed` are those that a channel points to, or would go back to:
    they stay.
    """

    files: Mapping[str, int]
    listed: Collection[str]
    withdrawn: Collection[str] = ()
    of_others: Collection[str] = ()
    needed: Collection[str] = ()
    refused: Collection[str] = ()

    @property
    def versions(self) -> set[str]:
        """The paths of the versions that have any file."""
        return {key.rpartition("/")[0] for key in self.files}


@dataclass(frozen=True, slots=True)
class ProductPlan:
    """What to do for one product.

    `missing` are files to copy. `overrides` are bodies to create by their keys, each a metadata.json. `delist` are
    versions to withdraw, `relist` versions whose withdrawal to undo. `held` is what the mirror holds of the product
    from now on.
    """

    missing: tuple[UpstreamFile, ...]
    overrides: Mapping[str, bytes]
    delist: tuple[VersionId, ...]
    relist: tuple[VersionId, ...]
    held: Mapping[str, HeldVersion]
    left_out: tuple[LeftOut, ...]

    @property
    def size_bytes(self) -> int:
        """The bytes to copy; what is here already costs nothing."""
        return sum(file.size_bytes for file in self.missing)


def no_longer_taken(mirror: str) -> str:
    """Return the reason that a mirror gives for a withdrawal, and by which it recognises its own."""
    return f"the mirror {mirror} no longer takes it"


def seen(document: bytes, versions: int, etag: str, now: datetime) -> SeenDocument:
    """Return what to keep of a products document; `versions` is how many of its versions could be taken.

    A date ahead of the clock is not kept: every later document would be older than it.
    """
    updated = simplestreams.updated(document)
    if updated is None or updated > now + FURTHEST_AHEAD:
        return SeenDocument(versions, "", etag)
    return SeenDocument(versions, updated.isoformat(), etag)


def refusal_of(now: Mapping[str, SeenDocument], last: Mapping[str, SeenDocument]) -> str:
    """Return why upstream's documents are not followed; empty if they are. `last` are those accepted last."""
    if not any(each.versions for each in now.values()):
        return "upstream lists no image, expected at least one: nothing was removed"
    for path, before in sorted(last.items()):
        if not before.versions:
            continue
        if path not in now:
            return f"upstream no longer has {path}, which had {before.versions:,} versions: nothing was removed"
        after = now[path]
        if 2 * after.versions < before.versions:
            return (
                f"{path} has {after.versions:,} versions, expected at least half of the {before.versions:,} that it "
                "had: nothing was removed"
            )
        if after.updated and before.updated and _time(after.updated) < _time(before.updated):
            return f"{path} is of {after.updated}, expected not before {before.updated}: nothing was removed"
    return ""


def plan_product(
    product: ProductId,
    upstream: Iterable[UpstreamVersion],
    here: LocalProduct,
    held: Mapping[str, HeldVersion],
    rules: Rules,
    now: datetime,
    unknown: Collection[str] = (),
) -> ProductPlan:
    """Compare one product. `upstream` is empty where upstream no longer has it; `held` is of this product alone.

    Of `unknown` versions nobody knows whether upstream has them: what is held of them stays as it is.
    """
    versions = {version.id: version for version in upstream if version.id.product == product}
    versions, too_large = _small_enough(versions, here, rules)
    coming, others = _coming(versions, here, held, rules)
    relist = tuple(
        one
        for one in coming
        if one.path in here.withdrawn and one.path not in here.refused and held.get(one.path, HeldVersion()).delisted
    )
    refused = {one for one in coming if _is_refused(one.path, here, held.get(one.path, HeldVersion()))}
    stays = {one.path: HeldVersion(delisted=one in relist, refused=one in refused) for one in coming}
    may_go = not (coming or others) or any(version.path in here.listed for version in (*coming, *others))
    coming = {one: files for one, files in coming.items() if one not in refused}
    stays |= {path: held[path] for path in held.keys() & set(unknown) if path not in stays}
    gone, delist = _gone({path: held[path] for path in held.keys() - stays}, here, may_go, rules.grace, now)
    return ProductPlan(
        missing=tuple(file for files in coming.values() for file in files if file.key not in here.files),
        overrides=_overrides(versions, coming, here),
        delist=delist,
        relist=relist,
        held=stays | gone,
        left_out=(*others.values(), *too_large, *_differing(coming, here)),
    )


def _small_enough(
    versions: Mapping[VersionId, UpstreamVersion], here: LocalProduct, rules: Rules
) -> tuple[dict[VersionId, UpstreamVersion], list[LeftOut]]:
    """Return the versions without files that are too large, and those of these files that would otherwise be taken.

    What is here already stays, so a smaller limit takes nothing off the list.
    """
    most = rules.most_bytes
    if most is None:
        return dict(versions), []
    small: dict[VersionId, UpstreamVersion] = {}
    left_out = []
    for one, version in versions.items():
        large = [file for file in version.files if file.size_bytes > most and file.key not in here.files]
        small[one] = version
        if large:
            small[one] = replace(version, files=tuple(file for file in version.files if file not in large))
            wanted = chosen({parse_key(file.key): file.size_bytes for file in version.files}, rules.filters)
            left_out += [
                LeftOut(
                    file.key,
                    f"has {file.size_bytes:,} bytes upstream, expected at most {most:,} (MaxUploadBytes): not copied",
                    one.product,
                )
                for file in large
                if parse_key(file.key) in wanted
            ]
    return small, left_out


def _is_refused(path: str, here: LocalProduct, was: HeldVersion) -> bool:
    """Return whether somebody other than the mirror withdrew a version, and nobody has restored it since."""
    if path in here.withdrawn:
        return not was.delisted or path in here.refused
    return was.refused and path not in here.versions


def _coming(
    versions: Mapping[VersionId, UpstreamVersion], here: LocalProduct, held: Collection[str], rules: Rules
) -> tuple[dict[VersionId, list[UpstreamFile]], dict[VersionId, LeftOut]]:
    """Return the files of each version to take, oldest first, and the versions that came here another way."""
    files: dict[ImageKey, UpstreamFile] = {
        parse_key(file.key): file for version in versions.values() for file in version.files
    }
    here_versions = here.versions
    taken = chosen({image: file.size_bytes for image, file in files.items()}, rules.filters, rules.keep)
    coming: dict[VersionId, list[UpstreamFile]] = {}
    others: dict[VersionId, LeftOut] = {}
    for image in sorted(taken):
        version = image.version
        if version.path in here.of_others:
            why = "comes through another mirror: one version has one source"
            others[version] = LeftOut(versions[version].name, why, version.product)
        elif version.path in here_versions and version.path not in held:
            why = "is here already and did not come through this mirror: it stays as it is"
            others[version] = LeftOut(versions[version].name, why, version.product)
        else:
            coming.setdefault(version, []).append(files[image])
    return coming, others


def _gone(
    held: Mapping[str, HeldVersion], here: LocalProduct, may_go: bool, grace: timedelta, now: datetime
) -> tuple[dict[str, HeldVersion], tuple[VersionId, ...]]:
    """Return what is still held of the versions that are no longer taken, and which of them leave the list now."""
    after: dict[str, HeldVersion] = {}
    delist = []
    here_versions = here.versions
    for path, was in sorted(held.items()):
        since = was.gone_since or now.isoformat()
        is_over = now - _time(since) >= grace
        if is_over and path not in here_versions:
            continue  # its files were deleted, or were never copied
        is_needed = is_over and path in here.needed
        goes = is_over and may_go and path not in here.withdrawn and not is_needed
        if goes:
            delist.append(parse_version(path))
        after[path] = HeldVersion(since, was.delisted or goes, _is_refused(path, here, was), is_needed)
    return after, tuple(delist)


def _differing(coming: Mapping[VersionId, Iterable[UpstreamFile]], here: LocalProduct) -> Iterator[LeftOut]:
    """Yield the files that are here with another size. Nothing is replaced: clients may have the bytes."""
    for version, files in coming.items():
        for file in files:
            there = here.files.get(file.key)
            if there is not None and file.size_bytes and there != file.size_bytes:
                why = f"has {there:,} bytes here, expected {file.size_bytes:,} as upstream's catalog says: it stays"
                yield LeftOut(file.key, why, version.product)


def _overrides(
    versions: Mapping[VersionId, UpstreamVersion], coming: Iterable[VersionId], here: LocalProduct
) -> dict[str, bytes]:
    """Return each metadata.json to create. An existing one stays: the operator may have edited it."""
    bodies = {one.prefix + _OVERRIDES_FILE: metadata_json(versions[one].overrides) for one in coming}
    return {key: body for key, body in bodies.items() if body and key not in here.files}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
