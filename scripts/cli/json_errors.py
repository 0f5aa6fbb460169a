"""Errors of a command that was asked for JSON: an object on standard output, beside the sentence on standard error."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

_ASKED: Final = "cli.json_errors"


class JsonErrors(click.Command):
    """A command whose wrong usage is reported as its other errors are. Of a group, only the root has to be one."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        is_asked = "--json" in args[: args.index("--") if "--" in args else None]  # parsing may end before it is read
        with _reported(is_asked):
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[_ASKED] = is_asked
        return context

    def invoke(self, ctx: click.Context) -> Any:
        with _reported(ctx.meta.get(_ASKED, False)):
            return super().invoke(ctx)


class JsonErrorsGroup(JsonErrors, click.Group):
    """The same for a group."""


def report(code: int, *reasons: str) -> None:
    """Print the reasons and the exit code of a command as JSON, if that was asked for."""
    context = click.get_current_context(silent=True)
    if context and context.meta.get(_ASKED):
        _print(code, reasons)


def answered() -> None:
    """Print no object for a later error: standard output has the command's answer, and holds one document."""
    if context := click.get_current_context(silent=True):
        context.meta[_ASKED] = False


@contextmanager
def _reported(is_asked: bool) -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if is_asked:
            is_help = isinstance(error, click.exceptions.NoArgsIsHelpError)  # whose message is the whole help
            _print(error.exit_code, ["no command is named"] if is_help else [error.format_message()])
        raise


def _print(code: int, reasons: Sequence[str]) -> None:
    click.echo(json.dumps({"error": {"code": code, "reasons": list(reasons)}}, indent=2))
