"""What publishers and operators learned about withdrawals, kept separately from the records.

An answer that arrived counts: a withdrawn file is not listed and a restored one is, whatever happens to other
files of the version. If no answer arrived, or two calls crossed, both outcomes are right and the mark is None.

Without a call, the withdrawal of a file ends with another upload under its name, and that of a version once it is seen
without files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Generation = tuple[str, str]  # ETag and time of an upload


@dataclass
class Mark:
    """Whether a version, or one generation of a file, is withdrawn.

    While it is `blurred`, an answer proves nothing: its record may be about another generation, or be abandoned.
    """

    withdrawn: bool | None = False
    blurred: bool = False
    unfinished: bool = False  # maintain began to delete it without a withdrawal
    going: bool = False  # maintain began to delete it with its version: another upload saves only other files
    calls: int = 0  # under way
    touched: int = 0  # counts events that may have changed it
    generation: Generation | None = None
    etags: set[str] = field(default_factory=set)  # of all earlier uploads

    def touch(self, withdrawn: bool | None) -> None:
        self.withdrawn = withdrawn
        self.touched += 1


@dataclass
class Answer:
    """What a call came back with, if it did: paths of the versions and files that are now as was asked."""

    acknowledged: Collection[str] = ()


@dataclass
class Ledger:
    """Marks by path of a version or key of a file; a path without one was never withdrawn.

    `quiet` says whether nobody looks at a version just now, and its record is up to date.
    """

    quiet: Callable[[str], bool]
    marks: dict[str, Mark] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)  # keys of files
    deleting: list[str] = field(default_factory=list)  # what maintain has begun to delete

    def of(self, path: str) -> Mark:
        return self.marks.setdefault(path, Mark())

    @contextmanager
    def call(self, versions: Collection[str], files: Collection[str], withdrawn: bool) -> Iterator[Answer]:
        """Track a call that may change these, from its start to its answer or to whatever prevented one."""
        answer = Answer()
        began: dict[str, int] = {}
        for path in (*versions, *files):
            mark = self.of(path)
            version = _version(path)
            if self._is_clear(version):
                mark.blurred = mark.unfinished = False
            elif withdrawn and path in files:
                mark.blurred = True  # the record may still describe the earlier upload
            mark.touch(None)
            mark.calls += 1
            began[path] = mark.touched
        try:
            yield answer
        finally:
            if not withdrawn:  # files uploaded meanwhile may or may not be restored with their version
                for path in (key for key in self.present if _version(key) in versions and key not in began):
                    self.of(path).touch(None)
            for path, touched in began.items():
                mark = self.of(path)
                mark.calls -= 1
                # An answered restore came before the record was made final: then nothing is deleted.
                restored = not withdrawn and path in answer.acknowledged and not mark.unfinished
                answered = path in answer.acknowledged or (_version(path) in answer.acknowledged and not mark.going)
                if mark.calls:  # either may have changed the record last, whichever answer arrives first
                    mark.touch(None)
                elif answered and mark.touched == touched and (restored or not mark.blurred):
                    mark.withdrawn = withdrawn

    @contextmanager
    def deletion(self, version: str, files: Collection[str], unfinished: bool) -> Iterator[None]:
        """Note that maintain deletes a version, or some of its files: from now on an answer may be about deleted files.

        A withdrawn version ends with its record, even if a file arrived that the record does not know.
        """
        for path in files or [version]:
            mark = self.of(path)
            ends = unfinished or (mark.withdrawn and not files)
            mark.touch(None if ends else mark.withdrawn)
            mark.blurred = True
            mark.unfinished = unfinished
            self.deleting.append(path)
        for key in () if files else [key for key in self.present if _version(key) == version]:
            self.of(key).going = True
            self.of(key).touch(None)
        try:
            yield
        finally:
            for path in files or [version]:
                self.deleting.remove(path)

    def came(self, key: str, generation: Generation) -> None:
        """Note that a file was uploaded."""
        version, mark = self.of(_version(key)), self.of(key)
        if self._is_empty(_version(key)) and self._is_clear(_version(key)) and not version.calls:
            version.touch(False)  # it was seen empty
            version.blurred = version.unfinished = False
        if mark.generation != generation:
            mark.touch(None if mark.calls else False)
            mark.blurred = bool(mark.calls)
            mark.going = False
            mark.etags |= {mark.generation[0]} if mark.generation else set()
        elif mark.withdrawn:  # the same bytes again within a second: whether it was gone is unknown
            mark.touch(None)
        mark.generation = generation
        self.present.add(key)

    def went(self, key: str) -> None:
        """Note that a file was deleted, by anybody."""
        self.present.remove(key)
        if self._is_empty(_version(key)):
            mark = self.of(_version(key))
            mark.touch(None if mark.withdrawn else mark.withdrawn)  # a worker may or may not see the folder empty
            mark.blurred = True

    def resolve(self, known: Callable[[str], bool]) -> None:
        """Set every unknown mark to what the records say. Nothing must be under way."""
        for path, mark in self.marks.items():
            if mark.withdrawn is None:
                mark.withdrawn = known(path)
            mark.blurred = False

    def may_go(self, key: str) -> bool:
        """Return whether maintain may delete this file: it or its version is withdrawn as far as anybody knows.

        Or its bytes were there before and withdrawn, and came again when no record knew it yet, or while maintain was
        about to delete them, after its look: S3 deletes by ETag.
        """
        version, mark = _version(key), self.of(key)
        again = mark.generation is not None and mark.generation[0] in mark.etags
        withdrawn = mark.withdrawn is not False or self.of(version).withdrawn is not False
        return withdrawn or (again and not self._is_clear(version))

    def _is_clear(self, version: str) -> bool:
        return version not in map(_version, self.deleting) and self.quiet(version)

    def _is_empty(self, version: str) -> bool:
        return not any(key.startswith(f"{version}/") for key in self.present)


def _version(path: str) -> str:
    return "/".join(path.split("/")[:6])
