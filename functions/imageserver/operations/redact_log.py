"""Write one of the edge's access logs anew, without tokens.

What is written is an upload as the log was, so its event leads here once more, and this time nothing is left to do.
"""

from typing import Final

from imageserver.access_logs.compressed import DamagedLog
from imageserver.errors import ObjectChanged, UnreadableLog
from imageserver.storage.port import Store
from imageserver.views.redaction import redacted

MOST_BYTES: Final = 100_000_000
"""Of a log, compressed. A run holds a second one as large, twice while it is sent."""


def redact_log(store: Store, key: str, etag: str) -> bool:
    """Replace the tokens in this upload of a log. Return whether anything was written.

    Nothing is to be done where it is gone, or another upload took its key: that one has an event of its own. Raise
    UnreadableLog where it cannot be read to its end, since tokens may be left in it.
    """
    try:
        log = store.open(key, etag)
        if log.size_bytes > MOST_BYTES:
            raise UnreadableLog(
                f"{key} has {log.size_bytes:,} bytes, expected at most {MOST_BYTES:,}: it may hold tokens; delete it"
            )
        clean = redacted(log.chunks)
    except ObjectChanged:
        return False
    except DamagedLog as damaged:
        raise UnreadableLog(
            f"{key} {damaged}; expected lines in a gzip file. It may hold tokens: delete it, or order logs as "
            "infra/README.md does"
        ) from damaged
    return clean is not None and store.replace(key, clean, etag) is not None
