"""The wiring of the template: frozen dataclasses that interpreter.py fills and the parts of the stack read."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification: events of a kind (S3's name, `s3:ObjectCreated:*`) under `prefix` are sent to a queue."""

    queue_arn: str
    event: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Bucket:
    name: str
    versioned: bool
    notifications: tuple[Notification, ...]


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue. Times are in seconds; `dead_letters_arn` is empty if failed messages stay in it."""

    name: str
    visibility_s: int
    dead_letters_arn: str
    max_receive_count: int


@dataclass(frozen=True, slots=True)
class Function:
    """A function. `code` is the folder that Lambda would unpack, `handler` is `module.path.function`."""

    logical_id: str
    arn: str
    code: Path
    handler: str
    environment: Mapping[str, str]
    timeout_s: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class SourceMapping:
    """An event source mapping from a queue to a function."""

    logical_id: str
    queue_arn: str
    function: str
    batch_size: int
    window_s: float
    max_concurrency: int
    partial_failures: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule. `expression` is `rate(1 hour)` or `cron(20 3 * * ? *)`, in UTC."""

    logical_id: str
    function: str
    expression: str
    event: Any


@dataclass(frozen=True, slots=True)
class Route:
    """A route. `path` may hold `{name}` and, last, `{name+}`; `auth` is "iam", "jwt" or "none"."""

    method: str
    path: str
    function: str
    auth: str


@dataclass(frozen=True, slots=True)
class EdgeCode:
    """The edge's function: the text that runs for each request of a viewer, and the ARN of the store that it reads."""

    text: str
    store_arn: str


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A behaviour of the edge for paths that match `pattern` (`*` is any text, without the leading slash)."""

    pattern: str
    methods: frozenset[str]
    encodings: tuple[str, ...]
    headers: Mapping[str, str]
    has_function: bool


@dataclass(frozen=True, slots=True)
class Edge:
    """The distribution: behaviours in order of precedence, the default last.

    `readable` maps each pattern of keys that it may read to the tags that an object must have. `logs` is the bucket for
    its access logs, and the beginning of their keys; None if it writes none.
    """

    root: str
    behaviours: tuple[Behaviour, ...]
    readable: tuple[tuple[str, frozenset[tuple[str, str]]], ...]
    sees_missing: bool
    function: EdgeCode | None
    logs: tuple[str, str] | None

    def behaviour(self, path: str) -> Behaviour:
        """Return the first behaviour whose pattern matches a path without its leading slash."""
        return next(b for b in self.behaviours if fnmatchcase(path, b.pattern))

    def needed_tags(self, key: str) -> frozenset[tuple[str, str]] | None:
        """Return the tags with which the bucket's policy lets the edge read `key`, or None if it never does."""
        return next((tags for pattern, tags in self.readable if fnmatchcase(key, pattern)), None)


@dataclass(frozen=True, slots=True)
class Wiring:
    """The whole wiring of the local stack."""

    region: str
    buckets: tuple[Bucket, ...]
    queues: tuple[Queue, ...]
    functions: Mapping[str, Function]
    mappings: tuple[SourceMapping, ...]
    schedules: tuple[Schedule, ...]
    routes: tuple[Route, ...]
    edge: Edge

    @property
    def bucket(self) -> Bucket:
        """The bucket with the images: the only one with versioning."""
        return next(bucket for bucket in self.buckets if bucket.versioned)
