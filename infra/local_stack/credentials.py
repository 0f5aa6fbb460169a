"""The credentials of the local stack. Whoever can reach its loopback port may use them; they are no secret."""

from typing import Final

ACCESS_KEY: Final = "LOCALSIMPLESTREAMS00"
SECRET_KEY: Final = "local-only-not-a-secret"  # noqa: S105
