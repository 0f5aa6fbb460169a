"""Check that the members of a tar can be unpacked one after the other, as tar does it in a new folder.

Daemons unpack a tarball with tar, and take any error of it for a failed download.
"""

from dataclasses import dataclass, field
from typing import Final

from imageserver.format.wording import quoted
from imageserver.inspection.tar_members import BadTar, Member

_LONGEST_PART: Final = 255  # bytes of a file's name in a Linux file system
_MOST_PATHS: Final = 20_000
_MOST_PARTS: Final = 64
_LARGEST_OWNER: Final = (1 << 32) - 1

_MOST_LINKS: Final = 40  # that Linux follows in one path

_Entry = dict[str, "_Entry"] | str
"""A folder with what is in it. A symbolic link is its target, any other file is ""."""


@dataclass(slots=True)
class TarTree:
    """The paths that were unpacked so far. A tar with more or deeper paths than are kept is no longer checked.

    `paths` counts them, and what was followed of links.
    """

    top: dict[str, _Entry] = field(default_factory=dict)
    paths: int = 0

    def add(self, member: Member, path: list[str]) -> None:
        """Take in a member at this path. Raise BadTar if tar fails on it."""
        if why := self._problem(member, path):
            raise BadTar(f"holds {quoted(member.name)}, which tar cannot unpack: {why}")

    def _problem(self, member: Member, path: list[str]) -> str:
        if any(len(part.encode("utf-8", "surrogateescape")) > _LONGEST_PART for part in path):
            return f"its name has more than {_LONGEST_PART} bytes between slashes"
        if not (0 <= member.uid <= _LARGEST_OWNER and 0 <= member.gid <= _LARGEST_OWNER):
            return f"its owner is {member.uid}:{member.gid}, expected two numbers from 0 to {_LARGEST_OWNER}"
        self.paths = max(self.paths, _MOST_PATHS * (len(path) > _MOST_PARTS))
        if self.paths >= _MOST_PATHS:
            return ""
        if not path:
            return "" if member.is_folder else "it has no name"
        if member.is_hard_link and not self._has(target := _parts(member.linkname)):
            return f"it is a hard link to {quoted('/'.join(target))}, expected a file before it in the tarball"
        return self._placed(member, path)

    def _placed(self, member: Member, path: list[str]) -> str:
        folder = self.top
        for depth, part in enumerate(path[:-1], start=1):
            self.paths += part not in folder
            below = self._followed(folder.setdefault(part, {}))
            if not isinstance(below, dict):
                return f"{quoted('/'.join(path[:depth]))} before it is no folder"
            folder = below
        found = folder.get(path[-1])
        if found and isinstance(found, dict) and not member.is_folder:
            return "a folder with something in it is there already"
        self.paths += path[-1] not in folder
        if member.is_folder:
            folder[path[-1]] = found if isinstance(found, dict) else {}
        else:
            folder[path[-1]] = _target(member, path)
        return ""

    def _followed(self, entry: _Entry) -> _Entry | None:
        """Return where a symbolic link leads in the end; None for nowhere. Any other entry is returned as it is."""
        found: _Entry | None = entry
        links, ahead = 0, list[str]()
        while found and (ahead or isinstance(found, str)):
            if isinstance(found, dict):
                found = found.get(ahead.pop())
            elif (links := links + 1) <= _MOST_LINKS:
                parts = _parts(found)
                self.paths += len(parts)  # so that hostile links do not take more time than hostile paths
                ahead += reversed(parts)
                found = self.top
            else:
                found = None
        return None if ahead else found

    def _has(self, path: list[str]) -> bool:
        """Return whether a path is that of a file. What is below rootfs/ is not kept."""
        if path[:1] == ["rootfs"]:
            return True
        folder = self._followed("/".join(path[:-1]) or ".")
        return isinstance(folder, dict) and bool(path) and isinstance(folder.get(path[-1]), str)


def _target(member: Member, path: list[str]) -> str:
    """Return where a symbolic link at this path leads; "" for any other member.

    The same for a link that goes up: until its end, tar has an empty file in its place.
    """
    parts = member.linkname.split("/")
    return "/".join((*path[:-1], *parts)) if member.is_symbolic_link and ".." not in parts else ""


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
