"""The exception with which a step of the smoke test fails."""


class Failed(Exception):
    """The server is not as it should be: what was expected, what was found."""


class Skipped(Exception):
    """The step cannot run here; the message says why. This is no fault of the server."""
