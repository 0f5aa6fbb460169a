"""The settings of a function: one frozen object, read from the environment once, at cold start."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

import msgspec

from imageserver.format.file_kinds import ALL_CLIENTS

DEFAULT_MAX_BYTES: Final = 50_000_000_000
"""What CloudFront serves in one answer; digest reads it in 667 of its 900 s at the 600 Mbit/s of one Lambda run."""

CLIENT_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {"both": ALL_CLIENTS, "lxd": ("lxd",), "incus": ("incus",)}

_VARIABLE: Final = re.compile(r"`(?:\$\.)?([A-Z_]+)`$")  # msgspec's messages end with the name of the field
_Count = Annotated[int, msgspec.Meta(ge=0)]


class BadSetting(ValueError):
    """A variable is missing, or its value cannot be used. The message names it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="upper"):
    """Values that the template sets, each in the variable with the field's name in capitals.

    `clients` says whose items the catalog carries. `publishers` is the text of the rule that says who may upload what;
    catalog.rights reads it. `queue_url` is the queue that triggers this function, `arrivals_queue_url` that of digest,
    `changes_queue_url` that of publish, `copies_queue_url` that of copy, `deltas_queue_url` that of delta. `base_url`
    is where clients find the server, without a slash at its end. `deltas` is how many deltas the server makes for a
    version that sets no number itself; 0 turns deltas off. `views`: the edge can tell views apart, so the server may
    have some. `logs_bucket` has the edge's access logs; it is set for redact, and if `keep_fetched_within_days` needs
    them.
    """

    bucket: str
    clients: Literal["both", "lxd", "incus"] = "both"
    max_upload_bytes: _Count = DEFAULT_MAX_BYTES
    memory_mb: _Count = msgspec.field(default=0, name="AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
    allow_overwrites: bool = False
    allow_deletes: bool = False
    publishers: str = "{}"
    grace_hours: _Count = 24
    distribution_id: str = ""
    queue_url: str = ""
    arrivals_queue_url: str = ""
    changes_queue_url: str = ""
    copies_queue_url: str = ""
    deltas_queue_url: str = ""
    deltas: _Count = 0
    base_url: str = ""
    views: bool = False
    retain_versions: _Count = 0
    retain_days: _Count = 0
    stale_days: _Count = 7
    refused_days: _Count = 30
    keep_fetched_within_days: _Count = 0
    logs_bucket: str = ""
    max_files: _Count = 100
    max_versions: _Count = 1000
    max_products: _Count = 1000
    max_stored_bytes: _Count = 10_000_000_000_000
    max_requests: _Count = 600

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings; an empty variable counts as unset.

        Raises BadSetting, which names the variable, its value and the expected type.
        """
        try:
            return msgspec.convert({name: value for name, value in environment.items() if value}, cls, strict=False)
        except msgspec.ValidationError as error:
            (name,) = _VARIABLE.findall(str(error))
            found = f"is {environment[name]!r}" if environment.get(name) else "is not set"
            raise BadSetting(
                f"{name} {found}: {error}; the template sets it for every function that reads it"
            ) from error
