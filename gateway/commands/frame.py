"""What commands have in common: options, settings, a session of the operator, and errors that become exit codes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gateway import app, logs, settings
from gateway.processes import CannotStart
from gateway.settings import Loaded, SettingsError
from storage.errors import GatewayError

if TYPE_CHECKING:
    from gateway.session import Session
    from storage.archive import Archive

USAGE, INTERRUPTED = 2, 130
"""Exit codes."""

Command = Callable[..., Any]
CONFIG = click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Settings in TOML."
)
DATA = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Folder of the archive.  [data]"
)
JSON = click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")


@contextlib.contextmanager
def operator_archive(values: settings.Settings) -> Iterator[Archive]:
    """The archive itself, for what a session does not offer. What goes wrong within the block ends the command."""
    with archive_errors(values), app.open_archive(values) as archive:
        yield archive


def fail(reason: object, exit_code: int) -> NoReturn:
    """End the command with a reason on standard error."""
    click.echo(f"dicomweb-gateway: {reason}", err=True)
    sys.exit(exit_code)


def load(config: Path | None, flags: Mapping[str, object]) -> Loaded:
    """Settings of file, environment and flags, by path; bad ones end the command."""
    try:
        return settings.load(config, {path: value for path, value in flags.items() if value is not None})
    except SettingsError as error:
        fail(error, USAGE)


@contextlib.contextmanager
def archive_errors(
    values: settings.Settings, *, exit_code: int = 1, interrupted: str = "Interrupted."
) -> Iterator[None]:
    """Within it, log lines are warnings at least, and what goes wrong with the archive is one line and an exit code.

    exit_code: of what fails. interrupted: what Ctrl-C says.
    """
    logs.configure("WARNING", strict=values.logs.strict)
    logs.guard_process()
    try:
        yield
    except SettingsError as error:
        fail(error, USAGE)
    except CannotStart as error:
        fail(error, error.exit_code)
    except GatewayError as error:
        fail(error.reason, exit_code)
    except OSError as error:
        fail(f"The data folder {values.archive.data} cannot be used: {error.strerror}", exit_code)
    except KeyboardInterrupt:
        fail(interrupted, INTERRUPTED)


@contextlib.contextmanager
def operator_session(values: settings.Settings, name: str = "command line") -> Iterator[Session]:
    """The archive as the operator may see it. What goes wrong with it within the block ends the command."""
    from gateway.security.actor import Actor

    with archive_errors(values), app.open_sessions(values) as sessions:
        yield sessions(Actor("operator", name))


def operating(config: Path | None, data: Path | None, name: str) -> contextlib.AbstractContextManager[Session]:
    """The same, with settings of these flags."""
    return operator_session(load(config, {"archive.data": data}).settings, name)
