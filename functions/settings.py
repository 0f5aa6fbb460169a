"""Settings of a function: one frozen object, read once from its environment at cold start."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from simplestreams.items import ALL_CLIENTS

DEFAULT_MAX_BYTES: Final = 50_000_000_000
"""What CloudFront serves in one answer; digest reads it in 667 of its 900 s at the 600 Mbit/s of one Lambda run."""


CLIENT_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {"both": ALL_CLIENTS, "lxd": ("lxd",), "incus": ("incus",)}


class BadSetting(ValueError):
    """A variable is missing or says nothing useful; the message names it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the template decides. `clients` are those whose items the catalog carries.

    `publishers` is the text of the rule that says who may upload what; uploads.rights reads it. `queue_url` is the
    queue that triggers this function, `arrivals_queue_url` that of digest.
    """

    bucket: str
    clients: tuple[str, ...] = ALL_CLIENTS
    max_upload_bytes: int = DEFAULT_MAX_BYTES
    memory_mb: int = 0
    allow_overwrites: bool = False
    allow_deletes: bool = False
    publishers: str = "{}"
    grace_hours: int = 24
    distribution_id: str = ""
    queue_url: str = ""
    arrivals_queue_url: str = ""
    retain_versions: int = 0
    retain_days: int = 0
    stale_days: int = 7

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the settings; BadSetting names the variable that is wrong and what it should be."""
        return cls(
            bucket=_required(environment, "BUCKET"),
            clients=_clients(environment.get("CLIENTS", "both")),
            max_upload_bytes=_number(environment, "MAX_UPLOAD_BYTES", DEFAULT_MAX_BYTES),
            memory_mb=_number(environment, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 0),
            allow_overwrites=_switch(environment, "ALLOW_OVERWRITES"),
            allow_deletes=_switch(environment, "ALLOW_DELETES"),
            publishers=environment.get("PUBLISHERS") or "{}",
            grace_hours=_number(environment, "GRACE_HOURS", 24),
            distribution_id=environment.get("DISTRIBUTION_ID", ""),
            queue_url=environment.get("QUEUE_URL", ""),
            arrivals_queue_url=environment.get("ARRIVALS_QUEUE_URL", ""),
            retain_versions=_number(environment, "RETAIN_VERSIONS", 0),
            retain_days=_number(environment, "RETAIN_DAYS", 0),
            stale_days=_number(environment, "STALE_DAYS", 7),
        )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise BadSetting(f"the environment variable {name} is not set; the template sets it for every function")
    return value


def _clients(value: str) -> tuple[str, ...]:
    if value not in CLIENT_CHOICES:
        raise BadSetting(f"CLIENTS is {value!r}, expected one of {', '.join(sorted(CLIENT_CHOICES))}")
    return CLIENT_CHOICES[value]


def _switch(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name) or "false"
    if value not in ("true", "false"):
        raise BadSetting(f"{name} is {value!r}, expected true or false")
    return value == "true"


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name) or str(default)
    if not value.isdecimal():
        raise BadSetting(f"{name} is {value!r}, expected a whole number")
    return int(value)
