"""Architecture names as LXD and Incus know them (their shared/osarch/architectures.go).

A client skips a product of an architecture that it does not know, without a word, so an unknown one is
refused here. Folder names may be the kernel's (`x86_64`) or an alias (`amd64`).
"""

from typing import Final

_ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "i686": ("i386", "i586", "386", "x86", "generic_32"),
    "x86_64": ("amd64", "generic_64"),
    "armv6l": ("armel", "arm"),
    "armv7l": ("armhf", "armhfp", "armv7", "armv7a_hardfp", "armv7a_vfpv3_hardfp"),
    "armv8l": (),
    "aarch64": ("arm64", "arm64_generic"),
    "ppc": ("powerpc",),
    "ppc64": ("powerpc64",),
    "ppc64le": ("ppc64el",),
    "s390x": (),
    "mips": ("mipsel", "mipsle"),
    "mips64": ("mips64el", "mips64le"),
    "riscv32": (),
    "riscv64": (),
    "loongarch64": ("loong64",),
}
_CANONICAL: Final[dict[str, str]] = {
    name: kernel for kernel, aliases in _ALIASES.items() for name in (kernel, *aliases)
}

KNOWN: Final[tuple[str, ...]] = tuple(sorted(_CANONICAL))
"""Every accepted name, for messages."""


def canonical(name: str) -> str | None:
    """The kernel's name for an architecture (`x86_64` for `amd64`), or None if no client knows it."""
    return _CANONICAL.get(name)
