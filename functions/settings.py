"""Settings of a function: one frozen object, read once from its environment at cold start."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from simplestreams.fold import ALL_CLIENTS

GIB: Final = 1 << 30
DEFAULT_MAX_BYTES: Final = 100 * GIB


class BadSetting(ValueError):
    """A variable is missing or says nothing useful; the message names it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the template decides. `clients` are those whose items the catalog carries."""

    bucket: str
    clients: tuple[str, ...] = ALL_CLIENTS
    max_upload_bytes: int = DEFAULT_MAX_BYTES
    memory_mb: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the settings; BadSetting names the variable that is wrong and what it should be."""
        return cls(
            bucket=_required(environment, "BUCKET"),
            clients=_clients(environment.get("CLIENTS", "both")),
            max_upload_bytes=_number(environment, "MAX_UPLOAD_BYTES", DEFAULT_MAX_BYTES),
            memory_mb=_number(environment, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 0),
        )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise BadSetting(f"the environment variable {name} is not set; the template sets it for every function")
    return value


def _clients(value: str) -> tuple[str, ...]:
    choices = {"both": ALL_CLIENTS, "lxd": ("lxd",), "incus": ("incus",)}
    if value not in choices:
        raise BadSetting(f"CLIENTS is {value!r}, expected one of {', '.join(sorted(choices))}")
    return choices[value]


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name) or str(default)
    if not value.isdecimal():
        raise BadSetting(f"{name} is {value!r}, expected a whole number")
    return int(value)
