"""What the catalog must say, computed in one pass over the objects themselves.

Written from the rules (README, and LXD's and Incus's products.go), not from the code under test: it knows no
records, no events and no increments, and it does not parse images. The test that made a body says what
it is (`Content`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

CLIENTS = {"incus": ("incus.tar.xz", "incus_combined.tar.gz"), "lxd": ("lxd.tar.xz", "lxd_combined.tar.gz")}
COMBINED = {
    "squashfs": ["combined_squashfs_sha256"],
    "root.tar.xz": ["combined_rootxz_sha256", "combined_sha256"],
    "disk-kvm.img": ["combined_disk-kvm-img_sha256"],
}
ROOTS = {  # the first sound one of each kind counts
    "squashfs": ("rootfs.squashfs", "root.squashfs"),
    "root.tar.xz": ("rootfs.tar.xz", "root.tar.xz"),
    "disk-kvm.img": ("disk.qcow2", "other.qcow2"),
}
FORMS = {14: "%Y%m%d_%H:%M", 13: "%Y%m%d_%H%M", 12: "%Y%m%d%H%M", 8: "%Y%m%d"}
FORM_NAMES = {14: "YYYYMMDD_HH:MM", 13: "YYYYMMDD_HHMM", 12: "YYYYMMDDHHMM", 8: "YYYYMMDD"}


def form_of(name: str) -> int:
    """Return the key of a version's form. A respin has that of its day."""
    return len(name.partition(".")[0])


Entry = dict[str, str]  # an entry of `withheld`


@dataclass(frozen=True)
class Content:
    """A body and what it is: `metadata <arch>`, `unified <arch>`, `squashfs`, `tar`, `qcow2`, `vcdiff`, `overrides`."""

    kind: str
    body: bytes
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@dataclass
class Build:
    """A version that could be listed. `roots` is ftype -> file, `prints` is file -> fingerprints."""

    name: str
    files: dict[str, Content]
    metadata: dict[str, str]
    roots: dict[str, str]
    unified: str
    deltas: list[str]
    prints: dict[str, list[str]]
    arrived: dict[str, str] = field(default_factory=dict)  # file of a root -> when the last file of that image came
    since: str = ""

    @property
    def moment(self) -> datetime:
        return datetime.strptime(self.name.partition(".")[0], FORMS[form_of(self.name)])  # noqa: DTZ007  (UTC by rule)


Published = Mapping[str, Mapping[str, str]]
"""Version (`images/…/<version>`) -> file -> sha256 that clients may have seen, which the objects do not say."""


def expected_catalog(
    objects: Mapping[str, Content],
    withdrawn: Collection[str],
    uploaded: Mapping[str, str],
    published: Published,
    since: Mapping[str, str] | None = None,
) -> dict[str, bytes]:
    """Return served key -> bytes of `streams/v1/index.json` and every products document.

    `objects`: the key of each object below images* with what it is; `withdrawn`: versions (`images/…/<version>`) and
    keys of single files; `uploaded`: when each object came, as text that sorts; `since`: version -> when its product
    published first, which the objects do not say once that version is gone.
    """
    versions = _versions(objects, withdrawn)
    streams: dict[str, dict[str, list[Build]]] = {}
    for path, files in versions.items():
        stream, *product, version = path.split("/")
        if build := _build(version, files, product[2], published.get(path, {})):
            for root in build.prints:
                needed = {root, *build.metadata.values()} if root != build.unified else {root}
                build.arrived[root] = max(uploaded[f"{path}/{file}"] for file in needed)
            build.since = min(filter(None, [(since or {}).get(path), *build.arrived.values()]), default="")
            streams.setdefault(stream, {}).setdefault(":".join(product), []).append(build)
    documents = _documents(streams)
    index = {
        stream: {
            "datatype": "image-downloads",
            "format": "products:1.0",
            "path": f"streams/v1/{stream}.json",
            "products": sorted(document["products"]),
        }
        for stream, document in documents.items()
        if document["products"] or any(_is_elsewhere(e) for es in document.get("withheld", {}).values() for e in es)
    }
    served = {f"streams/v1/{stream}.json": canonical(document) for stream, document in documents.items()}
    return served | {"streams/v1/index.json": canonical({"format": "index:1.0", "index": index})}


def expected_unlisted(
    objects: Mapping[str, Content], withdrawn: Collection[str], published: Published
) -> dict[str, dict[str, set[str]]]:
    """Return stream -> product -> versions that exist and cannot be listed. Arguments as in `expected_catalog`.

    It does not say whether they are `incomplete` or `invalid`. A bad root is refused once read, which takes metadata
    that may have been deleted since, so the answer depends on more than the objects.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for path, files in _versions(objects, withdrawn).items():
        stream, *product, version = path.split("/")
        if _build(version, files, product[2], published.get(path, {})) is None:
            found.setdefault(stream, {}).setdefault(":".join(product), set()).add(version)
    return found


def _versions(objects: Mapping[str, Content], withdrawn: Collection[str]) -> dict[str, dict[str, Content]]:
    versions: dict[str, dict[str, Content]] = {}
    for key, content in objects.items():
        path, _, file = key.rpartition("/")
        parts = path.split("/")
        if len(parts) == 6 and form_of(parts[5]) in FORMS and not {path, key} & set(withdrawn):
            versions.setdefault(path, {})[file] = content
    return versions


def canonical(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _build(name: str, files: dict[str, Content], arch: str, published: Mapping[str, str]) -> Build | None:
    sums = _sums(files)
    unchanged = [file for file, sha256 in published.items() if file in files and files[file].sha256 == sha256]
    if unchanged and ({f for f in unchanged if sums.get(f, published[f]) != published[f]} or not sums.keys() & files):
        sums = {}  # it came too late
    sound = {f: c for f, c in files.items() if sums.get(f, c.sha256) == c.sha256}

    def is_a(file: str, kind: str) -> bool:
        return file in sound and sound[file].kind == kind

    own = {client: meta for client, (meta, _) in CLIENTS.items() if is_a(meta, f"metadata {arch}")}
    first = [sound[meta].sha256 for meta in own.values() if meta in published]
    if first:
        own = {client: meta for client, meta in own.items() if meta in published or sound[meta].sha256 in first}
    metadata = {client: own.get(client, next(iter(own.values()))) for client in CLIENTS} if own else {}
    roots = {}
    kinds = {"squashfs": "squashfs", "root.tar.xz": "tar", "disk-kvm.img": "qcow2"}
    for ftype, names in ROOTS.items():
        found = sorted((f for f in names if is_a(f, kinds[ftype])), key=lambda file: file not in published)
        if found and own:
            roots[ftype] = found[0]
    whole = [u for u in ("incus_combined.tar.gz", "lxd_combined.tar.gz") if is_a(u, f"unified {arch}")]
    unified = min(whole, key=lambda file: file not in published, default="")
    if containers := {"squashfs", "root.tar.xz"} & roots.keys():  # one container in a version: who came first
        if unified in published and not any(roots[ftype] in published for ftype in containers):
            roots = {ftype: file for ftype, file in roots.items() if ftype not in containers}
        else:
            unified = ""
    if not (roots or unified):
        return None
    if not unchanged and "SHA256SUMS" in files and not sums.keys() & (files.keys() - {"SHA256SUMS"}):
        return None  # a list that checks nothing
    prints = {}
    for file in sorted(roots.values()):
        heads = {sound[metadata[client]].body for client in CLIENTS}
        prints[file] = sorted(hashlib.sha256(head + sound[file].body).hexdigest() for head in heads)
    if unified:
        prints[unified] = [sound[unified].sha256]
    return Build(name, sound, metadata, roots, unified, [f for f in sound if is_a(f, "vcdiff")], prints)


def _sums(files: Mapping[str, Content]) -> dict[str, str]:
    """Return the digests of SHA256SUMS: file -> sha256."""
    lines = files["SHA256SUMS"].body.decode().splitlines() if "SHA256SUMS" in files else []
    return {file: digest for digest, file in (line.split("  ") for line in lines)}


Name = tuple[str, str]  # stream and product


def _is_elsewhere(entry: Entry) -> bool:
    """Return whether a product name is that of another stream, which has its stream as a prefix."""
    return entry.get("held_by", "").count(":") == 4 and "/" not in entry["held_by"]


def _documents(streams: dict[str, dict[str, list[Build]]]) -> dict[str, dict[str, Any]]:
    listed: dict[Name, list[Build]] = {}
    lost: dict[Name, list[Entry]] = {}
    sound: dict[Name, list[Build]] = {}
    for stream, products in streams.items():
        for product, versions in products.items():
            builds, lost[stream, product] = _of_one_form(versions)
            sound[stream, product] = sorted(builds, key=lambda b: (b.moment, b.name), reverse=True)
    since = {name: min(build.since for build in builds) for name, builds in sound.items()}
    _drop_copies(sound, lost)
    for name, builds in sound.items():
        if left := [build for build in builds if build.prints]:
            listed[name] = left
            lost[name] += _choose_deltas(left) + _dropped(left)
    elsewhere = _elsewhere(listed, since)
    return {stream: _document(stream, streams[stream].keys(), listed, lost, elsewhere) for stream in streams}


def _elsewhere(listed: Mapping[Name, list[Build]], since: Mapping[Name, str]) -> dict[tuple[Name, str], Name]:
    """Return (product, alias) -> the product of another stream that has it: by its path, else by the earlier upload.

    Clients read all streams as one list. A product keeps the names of its path even if others list its images.
    """
    claims: dict[tuple[str, str], list[tuple[bool, str, Name]]] = {}
    for name in since:
        own = _own_aliases(name[1])
        others = set(_overrides(listed[name][0]).get("aliases", [])) - set(own) if name in listed else set()
        for alias in (*own, *others):
            claims.setdefault((name[1].split(":")[2], alias), []).append((alias in others, since[name], name))
    found: dict[tuple[Name, str], Name] = {}
    for (_, alias), asking in claims.items():
        first = min(asking)[2]
        found |= {(name, alias): first for _, _, name in asking if name[0] != first[0]}
    return found


def _document(
    stream: str,
    products: Collection[str],
    everything: Mapping[Name, list[Build]],
    lost: Mapping[Name, list[Entry]],
    elsewhere: Mapping[tuple[Name, str], Name],
) -> dict[str, Any]:
    listed = {name: builds for (where, name), builds in everything.items() if where == stream}
    gone = {(name, alias): holder for ((where, name), alias), holder in elsewhere.items() if where == stream}
    aliases, others_aliases = _aliases(listed, products - listed.keys(), gone)
    fields = ("alias", "version", "file", "fingerprint", "held_by", "reason")
    by_product = {name: lost[stream, name] + (_taken(name, gone) if name in listed else []) for name in products}
    withheld = {
        name: others_aliases.get(name, []) + sorted(entries, key=lambda entry: [entry.get(f, "") for f in fields])
        for name, entries in by_product.items()
    }
    document = {
        "content_id": stream,
        "datatype": "image-downloads",
        "format": "products:1.0",
        "products": {name: _product(stream, name, builds, aliases[name]) for name, builds in listed.items()},
        "withheld": {name: entries for name, entries in withheld.items() if entries},
    }
    return document if document["withheld"] else {k: v for k, v in document.items() if k != "withheld"}


def _taken(product: str, gone: Mapping[tuple[str, str], Name]) -> list[Entry]:
    return [
        {
            "alias": alias,
            "held_by": ":".join(holder),
            "reason": f"the alias {alias} is taken by {'/'.join(holder).replace(':', '/')}, which was first: clients "
            "read all streams as one list; give this product an alias of its own in metadata.json",
        }
        for (name, alias), holder in gone.items()
        if name == product
    ]


def _of_one_form(builds: list[Build]) -> tuple[list[Build], list[Entry]]:
    """Return the versions with the most common form (on a tie, the form of the oldest), and the others."""
    count = Counter(form_of(build.name) for build in builds)
    most = max(count.values())
    oldest = min((b for b in builds if count[form_of(b.name)] == most), key=lambda b: (b.moment, builds.index(b)))
    form = form_of(oldest.name)
    others = [
        {"version": build.name, "reason": _wrong_form(build.name, form)}
        for build in builds
        if form_of(build.name) != form
    ]
    return [build for build in builds if form_of(build.name) == form], others


def _wrong_form(name: str, form: int) -> str:
    return (
        f"the version {name} is named {FORM_NAMES[form_of(name)]}, expected {FORM_NAMES[form]} as most versions of "
        "this product are: clients order versions as texts; upload it again under a name of that form"
    )


def _drop_copies(products: dict[Name, list[Build]], lost: dict[Name, list[Entry]]) -> None:
    """Give each image to the product that uploaded it first (on a tie, the first by name), in its newest version."""
    everywhere = [(name, build, root) for name in products for build in products[name] for root in build.prints]

    def turn(entry: tuple[Name, Build, str]) -> tuple[str, Name, int]:
        name, build, root = entry
        alike = [b.arrived[r] for n, b, r in everywhere if n == name and set(b.prints[r]) & set(build.prints[root])]
        return min(alike), name, products[name].index(build)

    taken: dict[str, tuple[Name, str]] = {}  # fingerprint -> product and version that list it
    for name, build, root in sorted(everywhere, key=turn):
        prints = build.prints[root]
        twice = [fingerprint for fingerprint in prints if fingerprint in taken]
        if not twice:
            taken.update(dict.fromkeys(prints, (name, build.name)))
            continue
        del build.prints[root]
        build.roots = {ftype: file for ftype, file in build.roots.items() if file != root}
        build.unified = "" if build.unified == root else build.unified
        holder, version = taken[twice[0]]
        held_by = holder[1] if holder[0] == name[0] else ":".join(holder)
        held_by += f"/{version}" if holder == name else ""
        same = f"{build.name}/{root} is the same image as one that {held_by} lists"
        reason = f"{same}: clients fail when they see it twice"
        about = {"version": build.name, "file": root, "fingerprint": twice[0]}
        lost[name].append({**about, "held_by": held_by, "reason": reason})


def _choose_deltas(builds: list[Build]) -> list[Entry]:
    """Keep each build's squashfs delta with the newest listed base; say why the others are left out."""
    lost = []
    for build in builds:
        kept = ""
        for base in [other.name for other in builds] + sorted({d.split(".")[1] for d in build.deltas}):
            for delta in [d for d in build.deltas if d.split(".")[1] == base]:
                there = next((b for b in builds if b.name == base and b is not build), None)
                why = ""
                if "squashfs" not in build.roots:
                    why = "has no squashfs beside it that is listed"
                elif there is None or "squashfs" not in there.roots:
                    why = f"applies to the squashfs of {base}, which is not listed"
                elif kept not in ("", delta):
                    why = f"is a second delta beside {kept}, whose base is newer"
                kept = kept if why else delta
                entry = {
                    "version": build.name,
                    "file": delta,
                    "reason": f"{build.name}/{delta} {why}: clients download the whole root",
                }
                if why and entry not in lost and delta != kept:
                    lost.append(entry)
        build.deltas = [kept] if kept else []
    return lost


def _dropped(builds: list[Build]) -> list[Entry]:
    """Say what the newest version of a product loses from the one before because it has no metadata.json."""
    if len(builds) < 2 or "metadata.json" in builds[0].files or "metadata.json" not in builds[1].files:
        return []
    earlier = _overrides(builds[1])
    aliases = sorted(set(earlier.get("aliases", [])))
    what = [f"the alias{'es' if len(aliases) > 1 else ''} {', '.join(aliases)}"] if aliases else []
    fields = [name for name in ("os", "release_title", "requirements") if earlier.get(name)]
    what += [f"the field{'s' if len(fields) > 1 else ''} {', '.join(fields)}"] if fields else []
    if not what:
        return []
    one = len(aliases) + len(fields) == 1
    reason = (
        f"{builds[0].name} comes without metadata.json, so {' and '.join(what)} that {builds[1].name} gives no longer "
        f"{'applies' if one else 'apply'}; upload metadata.json with {'it' if one else 'them'}, or with {{}} to agree"
    )
    return [{"version": builds[0].name, "reason": reason}]


def _own_aliases(name: str) -> list[str]:
    os, release, arch, variant = name.split(":")
    short = [f"{os}/{release}"] if variant == "default" else []
    return [f"{os}/{release}/{arch}/{variant}", f"{os}/{release}/{variant}", *short]


def _aliases(
    listed: Mapping[str, list[Build]], waiting: Collection[str], gone: Mapping[tuple[str, str], Name]
) -> tuple[dict[str, list[str]], dict[str, list[Entry]]]:
    """Return product -> its aliases: first those of its path, any other to the first product by name that asks.

    Also return each claim to an alias of another product. `waiting` has products whose images others list: their
    names stay theirs.
    """
    taken: dict[tuple[str, str], str] = {}
    wanted = {name: sorted(set(_overrides(builds[0]).get("aliases", []))) for name, builds in listed.items()}
    for asked in (*({name: _own_aliases(name) for name in names} for names in (listed, waiting)), wanted):
        for name in sorted(asked):
            for alias in asked[name]:
                taken.setdefault((name.split(":")[2], alias), name)
    has: dict[str, list[str]] = {name: [] for name in listed}
    lost: dict[str, list[Entry]] = {name: [] for name in listed}
    for name in listed:
        for alias in dict.fromkeys((*_own_aliases(name), *wanted[name])):
            holder = taken[name.split(":")[2], alias]
            if (name, alias) in gone:
                continue
            if holder == name:
                has[name].append(alias)
            else:
                entry = {"alias": alias, "held_by": holder, "reason": f"the alias {alias} is taken by {holder}"}
                lost[name].append(entry)
        lost[name].sort(key=lambda entry: entry["alias"])
    return has, lost


def _overrides(build: Build) -> Mapping[str, Any]:
    return build.files["metadata.json"].overrides if "metadata.json" in build.files else {}


def _product(stream: str, name: str, builds: list[Build], aliases: list[str]) -> dict[str, Any]:
    os, release, arch, variant = name.split(":")
    newest = _overrides(builds[0])
    product = {
        "aliases": ",".join(aliases),
        "arch": arch,
        "os": newest.get("os", os),
        "release": release,
        "release_title": newest.get("release_title", release),
        "variant": variant,
        "versions": {b.name: _version(f"{stream}/{name.replace(':', '/')}/{b.name}", b) for b in builds},
    }
    if requirements := newest.get("requirements"):
        product |= {"requirements": requirements, "lxd_requirements": requirements}
    return product


def _version(path: str, build: Build) -> dict[str, Any]:
    items: dict[str, Any] = {}

    def item(file: str, ftype: str, **more: str) -> dict[str, Any]:
        content = build.files[file]
        return {"ftype": ftype, "path": f"{path}/{file}", "sha256": content.sha256, "size": len(content.body)} | more

    for client, (meta, combined) in CLIENTS.items():
        if build.roots:
            file = build.metadata[client]
            hashes = {
                field: hashlib.sha256(build.files[file].body + build.files[root].body).hexdigest()
                for ftype, root in build.roots.items()
                for field in COMBINED[ftype]
            }
            items[meta] = item(file, meta, **hashes)
        if build.unified:
            items[combined] = item(build.unified, combined)
    for ftype, root in build.roots.items():
        items[root] = item(root, ftype)
    for delta in build.deltas:
        items[delta] = item(delta, "squashfs.vcdiff", delta_base=delta.split(".")[1])
    return {"items": items}
