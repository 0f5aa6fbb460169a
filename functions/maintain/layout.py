"""What an empty server needs before anybody uploads: the page for a person's browser."""

from pathlib import Path
from typing import Final

from maintain.work import Task, Work
from storage.port import Store, write

PAGE_KEY: Final = "index.html"
_PAGE: Final = Path(__file__).with_name("index.html")


def lay_out(store: Store, work: Work) -> None:
    """Put the page of this release where it is served."""
    body = _PAGE.read_bytes()
    seen = store.read(PAGE_KEY)
    if seen is None or seen.body != body:
        why = "it is missing" if seen is None else "it is another release's"
        task = Task("create" if seen is None else "replace", PAGE_KEY, why)
        work.do(task, lambda: write(store, PAGE_KEY, body, seen))
