"""The image that a smoke test uploads: its names and its bytes. Pure.

It has a stream of its own, so the products documents of other streams never change. Clients read all streams of a
server as one list and therefore see it while it is listed, under aliases that say what it is. Its variant is not
`default`, so it claims no alias of two words.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from imageserver.format.keys import LEASES, ProductId, VersionId
from local_stack.sample import LINUX_NAMES, rootfs, tarball

PRODUCT: Final = ProductId("images-smoke", "smoke-test", "deployment", "amd64", "check")
"""The one product that a smoke test writes and deletes. Nobody else may use it."""
ALIASES: Final = ("smoke-test/deployment/amd64/check", "smoke-test/deployment/check")
LEASE_KEY: Final = f"{LEASES}{PRODUCT.path}.json"
METADATA: Final = "lxd.tar.xz"
ROOT: Final = "rootfs.tar.xz"


@dataclass(frozen=True)
class Image:
    """One version of the product with the bytes of its two files."""

    version: VersionId
    metadata: bytes
    root: bytes

    @property
    def files(self) -> dict[str, bytes]:
        """File name -> bytes, in the order of upload: the root first, which has to wait for its metadata."""
        return {ROOT: self.root, METADATA: self.metadata}

    @property
    def keys(self) -> list[str]:
        """The keys of the files."""
        return [self.version.prefix + file for file in self.files]

    @property
    def fingerprint(self) -> str:
        """The combined sha256 that clients compare: over the metadata, then the root."""
        return hashlib.sha256(self.metadata + self.root).hexdigest()


def build(now: datetime, taken: Collection[str], token: str) -> Image:
    """Make the image of one run. `token` makes its fingerprint unique; `taken` are version names not to use.

    The version is named after this minute, or after the next one that is not taken. The name has the form of those that
    an older release left there, because clients only order versions of one form.
    """
    layout = "%Y%m%d_%H:%M" if any(":" in name for name in taken) else "%Y%m%d_%H%M"
    while (name := now.strftime(layout)) in taken:
        now += timedelta(minutes=1)
    lines = [
        f"architecture: {LINUX_NAMES[PRODUCT.arch]}",
        f"creation_date: {int(now.timestamp())}",
        "properties:",
        f"  description: smoke test {token}, removed when the test ends",
        f"  os: {PRODUCT.os}",
        f"  release: {PRODUCT.release}",
        f"  variant: {PRODUCT.variant}",
    ]
    metadata = tarball({"metadata.yaml": ("\n".join(lines) + "\n").encode()}, folders=())
    return Image(VersionId(PRODUCT, name), metadata, rootfs(PRODUCT.arch))
