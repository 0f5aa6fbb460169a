"""Lay out what a server has besides images: its web pages, and the description of its API."""

from pathlib import Path
from typing import Final

import msgspec

from imageserver.api.openapi import document
from imageserver.operations.runs import Run, Task
from imageserver.storage.port import Store, write

PAGE_KEY: Final = "index.html"
PAGES: Final = (PAGE_KEY, "api.html")
API_KEY: Final = "openapi.json"


_UNKNOWN_ADDRESS: Final = "https://…"


def lay_out(store: Store, run: Run, address: str = "") -> None:
    """Write the pages and the API description of this release to where they are served.

    `address` is the server's, such as `https://images.example.org`, and is shown by a browser without JavaScript.
    """
    bodies = {page: Path(__file__).with_name(page).read_bytes() for page in PAGES}
    if address:
        bodies[PAGE_KEY] = bodies[PAGE_KEY].replace(_UNKNOWN_ADDRESS.encode(), address.encode())
    for key, body in {**bodies, API_KEY: msgspec.json.encode(document())}.items():
        with run.looking_at(key):
            _put(store, run, key, body)


def _put(store: Store, run: Run, key: str, body: bytes) -> None:
    seen = store.read(key)
    if seen is None or seen.body != body:
        why = "it is missing" if seen is None else "it is another release's"
        task = Task("create" if seen is None else "replace", key, why)
        run.do(task, lambda: write(store, key, body, seen))
