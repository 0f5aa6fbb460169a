"""Choose the Cache-Control that each object is stored with: how long a client may keep it.

The object carries the header, not the edge: the edge would add it to errors as well, and a 404 that a browser keeps for
a year hides the file that arrives a minute later.
"""

from typing import Final

from imageserver.format.file_kinds import Role, classify

IMMUTABLE: Final = "public, max-age=31536000, immutable"
"""For the files that the catalog lists: a file of a version keeps its content, and the catalog names its digest.

A server that allows overwrites invalidates the edge. A browser that has the old file keeps it; LXD and Incus do not
cache.
"""
BRIEF: Final = "public, max-age=30"
"""For what changes under its name: the catalog, the page, and a version's documents, which a publisher may correct.

LXD and Incus keep a catalog for an hour, whatever the header says. No stale-while-revalidate: the edge would apply it
too and serve an outdated catalog.
"""
_DOCUMENTS: Final = frozenset({Role.OVERRIDES, Role.CHECKSUMS, Role.OTHER})


def cache_control(key: str) -> str:
    """Return the Cache-Control for the object with this key; empty for private objects."""
    folder, _, file = key.rpartition("/")
    if folder.startswith("images"):
        return BRIEF if classify(file).role in _DOCUMENTS else IMMUTABLE
    return BRIEF if not folder or key.startswith("streams/") else ""
