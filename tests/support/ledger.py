"""What publishers and operators learned about withdrawals, kept separately from the records.

An answer that arrived counts: a withdrawn file is not listed and a restored one is, whatever happens to other
files of the version. If no answer arrived, or two calls crossed, both outcomes are right and the expectation is None.

Without a call, the withdrawal of a file ends with another upload under its name, and that of a version once it is seen
without files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Generation = tuple[str, str]  # ETag and time of an upload


@dataclass
class Expectation:
    """Whether a version, or one generation of a file, is withdrawn.

    While it is `inconclusive`, an answer proves nothing: its record may be about another generation, or be abandoned.
    """

    withdrawn: bool | None = False
    inconclusive: bool = False
    unfinished: bool = False  # maintain began to delete it without a withdrawal
    deleted_with_version: bool = False  # maintain began to, so another upload saves only other files
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
    """Expectations by path of a version or key of a file; a path without one was never withdrawn.

    `quiet` returns whether nobody looks at a version just now, and its record is up to date.
    """

    quiet: Callable[[str], bool]
    expectations: dict[str, Expectation] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)  # keys of files
    deleting: list[str] = field(default_factory=list)  # what maintain has begun to delete

    def of(self, path: str) -> Expectation:
        return self.expectations.setdefault(path, Expectation())

    @contextmanager
    def call(self, versions: Collection[str], files: Collection[str], withdrawn: bool) -> Iterator[Answer]:
        """Track a call that may change these, from its start to its answer or to whatever prevented one."""
        answer = Answer()
        began: dict[str, int] = {}
        for path in (*versions, *files):
            expectation = self.of(path)
            version = _version(path)
            if self._is_clear(version):
                expectation.inconclusive = expectation.unfinished = False
            elif withdrawn and path in files:
                expectation.inconclusive = True  # the record may still describe the earlier upload
            expectation.touch(None)
            expectation.calls += 1
            began[path] = expectation.touched
        try:
            yield answer
        finally:
            if not withdrawn:  # files uploaded meanwhile may or may not be restored with their version
                for path in (key for key in self.present if _version(key) in versions and key not in began):
                    self.of(path).touch(None)
            for path, touched in began.items():
                expectation = self.of(path)
                expectation.calls -= 1
                # An answered restore came before the record was made final: then nothing is deleted.
                restored = not withdrawn and path in answer.acknowledged and not expectation.unfinished
                answered = path in answer.acknowledged or (
                    _version(path) in answer.acknowledged and not expectation.deleted_with_version
                )
                if expectation.calls:  # either may have changed the record last, whichever answer arrives first
                    expectation.touch(None)
                elif answered and expectation.touched == touched and (restored or not expectation.inconclusive):
                    expectation.withdrawn = withdrawn

    @contextmanager
    def deletion(self, version: str, files: Collection[str], unfinished: bool) -> Iterator[None]:
        """Note that maintain deletes a version, or some of its files: from now on an answer may be about deleted files.

        A withdrawn version ends with its record, even if a file arrived that the record does not know.
        """
        for path in files or [version]:
            expectation = self.of(path)
            ends = unfinished or (expectation.withdrawn and not files)
            expectation.touch(None if ends else expectation.withdrawn)
            expectation.inconclusive = True
            expectation.unfinished = unfinished
            self.deleting.append(path)
        for key in () if files else [key for key in self.present if _version(key) == version]:
            self.of(key).deleted_with_version = True
            self.of(key).touch(None)
        try:
            yield
        finally:
            for path in files or [version]:
                self.deleting.remove(path)

    def note_upload(self, key: str, generation: Generation) -> None:
        """Note that a file was uploaded."""
        version, expectation = self.of(_version(key)), self.of(key)
        if self._is_empty(_version(key)) and self._is_clear(_version(key)) and not version.calls:
            version.touch(False)  # it was seen empty
            version.inconclusive = version.unfinished = False
        if expectation.generation != generation:
            expectation.touch(None if expectation.calls else False)
            expectation.inconclusive = bool(expectation.calls)
            expectation.deleted_with_version = False
            expectation.etags |= {expectation.generation[0]} if expectation.generation else set()
        elif expectation.withdrawn:  # the same bytes again within a second: whether it was gone is unknown
            expectation.touch(None)
        expectation.generation = generation
        self.present.add(key)

    def note_deletion(self, key: str) -> None:
        """Note that a file was deleted, by anybody."""
        self.present.remove(key)
        if self._is_empty(_version(key)):
            expectation = self.of(_version(key))
            # A worker may or may not see the folder empty.
            expectation.touch(None if expectation.withdrawn else expectation.withdrawn)
            expectation.inconclusive = True

    def resolve(self, known: Callable[[str], bool]) -> None:
        """Set every unknown expectation to what the records say. Nothing must be under way."""
        for path, expectation in self.expectations.items():
            if expectation.withdrawn is None:
                expectation.withdrawn = known(path)
            expectation.inconclusive = False

    def may_go(self, key: str) -> bool:
        """Return whether maintain may delete this file: it or its version is withdrawn as far as anybody knows.

        Or its bytes were there before and withdrawn, and came again when no record knew it yet, or while maintain was
        about to delete them, after its look: S3 deletes by ETag.
        """
        version, expectation = _version(key), self.of(key)
        again = expectation.generation is not None and expectation.generation[0] in expectation.etags
        withdrawn = expectation.withdrawn is not False or self.of(version).withdrawn is not False
        return withdrawn or (again and not self._is_clear(version))

    def _is_clear(self, version: str) -> bool:
        return version not in map(_version, self.deleting) and self.quiet(version)

    def _is_empty(self, version: str) -> bool:
        return not any(key.startswith(f"{version}/") for key in self.present)


def _version(path: str) -> str:
    return "/".join(path.split("/")[:6])
