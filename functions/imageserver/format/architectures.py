"""Architecture names as LXD and Incus know them.

A client silently skips a product of an architecture that it does not know. A name that no client knows is refused here.
A name that only some know is listed, with a warning that names the others. Folder names may be the kernel's (`x86_64`)
or an alias (`amd64`).

The table is the union of `architectureNames` and `architectureAliases` in shared/osarch/architectures.go of
canonical/lxd at a83edf2 and lxc/incus at be7afc5 (both of August 2026). To update it, write today's names into
client_sources/*_architectures.txt beside tests/unit/imageserver/format/test_architectures.py and run that test. It
lists the names that are missing here. Find the first release with `git tag --contains <the commit that added the
name>`.
"""

from typing import Final

_ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "i686": ("i386", "i586", "386", "x86", "generic_32"),
    "x86_64": ("amd64", "generic_64", "amd64v3", "x86_64_v1", "x86_64_v2", "x86_64_v3", "x86_64_v4"),
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
_LEVELS: Final = ("x86_64_v1", "x86_64_v2", "x86_64_v3", "x86_64_v4")
_BEFORE_INCUS_LEVELS: Final = "every LXD, and Incus before 6.0.6 and 6.18,"
_OLD_LXD: Final = "LXD before 5.0.3"
SKIPPED_BY: Final[dict[str, str]] = {
    "amd64v3": "every Incus, and LXD before 5.21.5 and 6.7,",
    **dict.fromkeys(_LEVELS, _BEFORE_INCUS_LEVELS),
    **dict.fromkeys(("mipsle", "mips64le", "loongarch64", "loong64"), _OLD_LXD),
}
"""Name -> the clients served today that skip its products, as the subject of a sentence."""
_CANONICAL: Final[dict[str, str]] = {
    name: kernel for kernel, aliases in _ALIASES.items() for name in (kernel, *aliases)
}

KNOWN: Final[tuple[str, ...]] = tuple(sorted(_CANONICAL))
"""Every accepted name, for messages."""


def canonical(name: str) -> str | None:
    """Return the kernel's name for an architecture (`x86_64` for `amd64`), or None if no client knows it."""
    return _CANONICAL.get(name)


def kernel_name(name: str) -> str:
    """Return the kernel's name for an architecture, or the name itself if no client knows it."""
    return _CANONICAL.get(name, name)


def level(name: str) -> int:
    """Return the level of x86_64 that a name requires: 3 for `amd64v3`, 0 for a name without a level.

    Clients map each level to plain x86_64. An image of a higher level does not run on every such machine.
    """
    return int(name[-1]) if name == "amd64v3" or name in _LEVELS else 0
