"""One line for each change of the catalog, for the person at the terminal."""

import json
import threading
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.markup import escape


class CatalogLog:
    """Turns changes of objects into lines. `s3` reads the records and catalogs that changed."""

    def __init__(self, s3: Any, bucket: str, console: Console) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._console = console
        self._seen: dict[str, str] = {}
        self._lock = threading.Lock()

    def changed(self, what: dict[str, Any]) -> None:
        """Report one stored or removed object of the bucket."""
        key = what["key"]
        is_document = key.startswith("streams/") or key in ("index.html", "api.html", "openapi.json")
        # Others are leases and notes of maintain: of no interest to a publisher.
        if what["bucket"] != self._bucket or not (is_document or key.startswith(("images", "versions/"))):
            return
        if what["operation"] == "removed":
            self._line("removed", "yellow", key)
        elif key.startswith("images"):
            self._line("arrived", "cyan", f"{key} ({readable(what['size_bytes'])})")
        elif key.startswith("versions/"):
            self._ingested(key)
        elif not key.endswith(".atom"):  # which changes with the catalog
            about = readable(what["size_bytes"])
            if key.startswith("streams/v1/") and key != "streams/v1/index.json":
                products = self._json(key).get("products", {})
                versions = sum(len(product.get("versions", {})) for product in products.values())
                about = f"{_count(len(products), 'product')}, {_count(versions, 'version')}, {about}"
            self._line("published", "bold green", f"/{key} ({about})")

    def failed(self, function: str, reason: str) -> None:
        """Report a failed invocation."""
        self._line("failed", "red", f"{function}: {reason.splitlines()[0][:300] if reason else 'no reason given'}")

    def _ingested(self, key: str) -> None:
        record = self._json(key)
        if not record:
            return
        state = record.get("state", "ingested")
        reasons = [reason["sentence"] for reason in record.get("reasons", [])]
        path = record.get("version", key)
        summary = state + "".join(reasons)
        with self._lock:
            if self._seen.get(key) == summary:
                return
            self._seen[key] = summary
        colour = {"complete": "green", "invalid": "red"}.get(state, "yellow")
        self._line(state, colour, path)
        for sentence in reasons:
            self._line("", "dim", f"  {sentence}")

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
