"""Debian's Chromium, driven by Playwright; nothing is downloaded."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# No sandbox: CI runs as root. The rest keeps the browser from calling home or touching a GPU that is not there.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Missing(Exception):
    """Something that the browser needs is missing. The message names it and the command that installs it."""


@contextmanager
def chromium() -> "Iterator[Browser]":
    """Yield a running browser. `CHROMIUM` may name another executable. Raise Missing if there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise Missing("Playwright is missing: uv sync --group browser") from error
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not executable:
        raise Missing("Chromium is missing: apt-get install chromium, or set CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
