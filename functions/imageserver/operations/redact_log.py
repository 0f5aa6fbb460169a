"""Write one of the edge's access logs anew, without tokens.

The rewritten log is an upload too, so its event leads here once more, and then there is nothing left to do.
"""

import time
from typing import Final

from imageserver.access_logs.compressed import DamagedLog
from imageserver.errors import ObjectChanged, UnreadableLog
from imageserver.storage.port import Store
from imageserver.storage.retries import Pause, RaceLost, retry
from imageserver.views.redaction import redacted

MOST_BYTES: Final = 100_000_000
"""The largest log, compressed. A run also holds a result of that size, twice while it is sent."""


def redact_log(store: Store, key: str, etag: str, pause: Pause = time.sleep) -> bool:
    """Replace the tokens in this upload of a log. Return whether anything was written.

    Nothing is done if it is gone, or if another upload took its key, which has its own event. Raise UnreadableLog if it
    cannot be read to its end, since tokens may be left in it.
    """

    def attempt() -> bool:
        try:
            log = store.open(key, etag)
            if log.size_bytes > MOST_BYTES:
                raise UnreadableLog(
                    f"{key} has {log.size_bytes:,} bytes, expected at most {MOST_BYTES:,}: it may hold tokens; "
                    "delete it"
                )
            clean = redacted(log.chunks) if log.size_bytes else None  # a console makes a folder as an empty object
        except ObjectChanged:
            return False
        except DamagedLog as damaged:
            raise UnreadableLog(
                f"{key} {damaged}; expected lines in a gzip file. It may hold tokens: delete it, or order logs as "
                "infra/README.md does"
            ) from damaged
        if clean is None:
            return False
        if store.replace(key, clean, etag) is None:
            raise RaceLost  # two writes at once may both lose, and the log is still as it was
        return True

    return retry(key, attempt, pause)
