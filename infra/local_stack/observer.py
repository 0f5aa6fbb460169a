"""One line for each change of the catalog, for the person at the terminal."""

import json
import threading
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.markup import escape


class Observer:
    """Turns changes of objects into lines. `s3` reads the records and catalogs that changed."""

    def __init__(self, s3: Any, bucket: str, console: Console) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._console = console
        self._seen: dict[str, str] = {}
        self._lock = threading.Lock()

    def changed(self, what: dict[str, Any]) -> None:
        """Report one stored or removed object of the bucket."""
        if what["bucket"] != self._bucket:
            return
        key = what["key"]
        describe = self._describer(key)
        if describe is None:
            return
        if what["operation"] == "removed":
            self._line("removed", "yellow", key)
            return
        describe(key, what["size_bytes"])

    def _describer(self, key: str) -> Callable[[str, int], None] | None:
        if key.startswith("images"):
            return self._arrived
        if key.startswith("versions/"):
            return self._ingested
        if key.startswith("streams/") or key in ("index.html", "api.html", "openapi.json"):
            return self._published
        return None  # leases and notes of maintain: of no interest to a publisher

    def failed(self, function: str, reason: str) -> None:
        """Report a failed invocation."""
        self._line("failed", "red", f"{function}: {reason.splitlines()[0][:300] if reason else 'no reason given'}")

    def _arrived(self, key: str, size_bytes: int) -> None:
        self._line("arrived", "cyan", f"{key} ({readable(size_bytes)})")

    def _ingested(self, key: str, _size_bytes: int) -> None:
        record = self._json(key)
        if not record:
            return
        state = record.get("state", "ingested")
        reasons = [reason["sentence"] for reason in record.get("reasons", [])]
        path = record.get("version", key)
        if not self._is_news(key, state + "".join(reasons)):
            return
        colour = {"complete": "green", "invalid": "red"}.get(state, "yellow")
        self._line(state, colour, path)
        for sentence in reasons:
            self._line("", "dim", f"  {sentence}")

    def _published(self, key: str, size_bytes: int) -> None:
        about = readable(size_bytes)
        if key.endswith(".atom"):
            return  # it changes with the catalog
        if key.startswith("streams/v1/") and key != "streams/v1/index.json":
            document = self._json(key)
            products = document.get("products", {})
            versions = sum(len(product.get("versions", {})) for product in products.values())
            about = f"{_count(len(products), 'product')}, {_count(versions, 'version')}, {about}"
        self._line("published", "bold green", f"/{key} ({about})")

    def _is_news(self, key: str, state: str) -> bool:
        with self._lock:
            news = self._seen.get(key) != state
            self._seen[key] = state
        return news

    def _json(self, key: str) -> dict[str, Any]:
        """Return a document just written, or {} if it is already gone or changed: then another line follows."""
        try:
            body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            document = json.loads(body)
        except (ClientError, BotoCoreError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def _line(self, word: str, colour: str, text: str) -> None:
        self._console.print(f"[{colour}]{word:>10}[/]  {escape(text)}", highlight=False, soft_wrap=True)


def readable(size_bytes: int) -> str:
    """Return a size in readable form: "812 B", "1.5 MiB"."""
    size, units = float(size_bytes), ("B", "KiB", "MiB", "GiB")
    unit = 0
    while size >= 1024 and unit < len(units) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {units[unit]}" if unit else f"{size_bytes} B"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
