"""Errors and warnings of the command line: single lines on stderr, and the status.

`Commands` is the class of the group `sklrp.cli.main`.
"""

from __future__ import annotations

import signal
import sys
import traceback
import warnings
from typing import Any, NoReturn

import click

from sklrp._signals import WORDS, came, status_of

_BAD_INPUT = (
    ValueError,
    TypeError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class Failure(click.ClickException):
    """An error in one line, with status 1.

    Parameters
    ----------
    error : Exception
        What went wrong.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {_with_notes(error)}")


class BadInput(click.ClickException):
    """An error of the call or its input in one line, with status 2.

    Parameters
    ----------
    error : Exception
        What is wrong.
    """

    exit_code = 2

    def __init__(self, error: Exception) -> None:
        super().__init__(_with_notes(error))


class Commands(click.Group):
    """The group of commands, whose errors and warnings are single lines on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; without ``--debug`` no error shows a traceback."""
        with warnings.catch_warnings():
            warnings.showwarning = _ShowOnce()  # type: ignore[assignment]
            try:
                return super().invoke(ctx)
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except KeyboardInterrupt as stop:
                raise click.Abort from stop  # of an interrupt itself click prints an empty line
            except BrokenPipeError:  # as of head, which has seen enough: click says nothing
                raise
            except Exception as error:
                if ctx.params["debug"]:
                    traceback.print_exc()
                kind = BadInput if isinstance(error, _BAD_INPUT) else Failure
                raise kind(error) from error

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command line, and leave with its status."""
        kwargs["standalone_mode"] = False
        try:
            status = super().main(*args, **kwargs)
        except click.Abort as abort:
            number = getattr(abort.__cause__, "number", signal.SIGINT)
            status = _fail(WORDS[number], status_of(number))
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            status = error.exit_code
        except click.ClickException as error:
            status = _fail(error.format_message(), error.exit_code)
        except OSError as error:  # of help, where stdout is full
            status = _fail(str(error), 1)
        if not status and (swallowed := came()):  # as by a library that goes on
            status = _fail(WORDS[swallowed], status_of(swallowed))
        sys.exit(status if isinstance(status, int) else 0)


def _with_notes(error: Exception) -> str:
    return " ".join([str(error), *(f"({note})" for note in getattr(error, "__notes__", ()))])


def _fail(message: str, status: int) -> int:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return status


class _ShowOnce:
    """Write each warning in a line, once: steps of a pipeline and batches may all have it."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, message: Warning | str, *args: Any) -> None:
        text = " ".join(str(message).split())
        if text not in self._said:
            self._said.add(text)
            click.echo(f"warning: {text}", err=True)
