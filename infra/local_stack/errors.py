"""The errors of the local stack; each message is a sentence for the person who started it."""


class LocalStackError(Exception):
    """Base: the command prints the message and ends with `exit_code`."""

    exit_code = 1


class TemplateError(LocalStackError):
    """The template cannot be wired: unknown resource, property or parameter."""

    exit_code = 3


class PortInUse(LocalStackError):
    """Another program listens on the stack's port."""

    exit_code = 4


class AlreadyRunning(LocalStackError):
    """A running stack owns this state folder."""

    exit_code = 5


class NotRunning(LocalStackError):
    """There is no stack in this state folder."""

    exit_code = 6
