"""List the addresses, besides its key, at which the edge may have cached a file of a view.

A function rewrites `signed/<mac>/<key>` to the key before the cache. CloudFront Developer Guide, "What you need to know
when invalidating paths": of a path that a function rewrites, invalidate both spellings.
"""

from collections.abc import Iterable, Sequence

from imageserver.format.keys import version_of
from imageserver.format.signed_paths import signed_path
from imageserver.views.view import View


def addresses(keys: Sequence[str], views: Iterable[View]) -> list[str]:
    """Return the keys of images, and the paths at which the views that take their products serve them.

    A remote whose address has the token in its path asks for paths that begin with it. Those are unknown here: only
    the hash of a token is stored.
    """
    found = list(keys)
    for view in views:
        for key in keys:
            if view.takes(version_of(key).product):
                path = signed_path(view.name, view.secret_bytes, key)
                found.append(path if view.is_private else f"{view.name}/{path}")
    return found
