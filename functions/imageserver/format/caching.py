"""Choose the Cache-Control with which each object is stored: how long a client may keep it.

The header belongs to the object and not to the edge, which would put it on errors as well: a 404 that a browser keeps
for a year hides the file that comes a minute later.
"""

from typing import Final

from imageserver.format.file_kinds import Role, classify

IMMUTABLE: Final = "public, max-age=31536000, immutable"
"""Of the files that the catalog lists: a file of a version keeps its content, and the catalog names its digest.

A server that allows overwrites invalidates the edge, and a browser that has the old file keeps it: clients never do.
"""
BRIEF: Final = "public, max-age=30"
"""Of what changes under its name: the catalog, the page, and a version's documents, which a publisher may correct.

LXD and Incus keep a catalog for an hour, whatever it says. No stale-while-revalidate: the edge would take it for itself
and hand out a catalog that is over.
"""
_DOCUMENTS: Final = frozenset({Role.OVERRIDES, Role.CHECKSUMS, Role.OTHER})


def cache_control(key: str) -> str:
    """Return the Cache-Control to store an object with, by its key; empty for what is private."""
    folder, _, file = key.rpartition("/")
    if folder.startswith("images"):
        return BRIEF if classify(file).role in _DOCUMENTS else IMMUTABLE
    return BRIEF if not folder or key.startswith("streams/") else ""
