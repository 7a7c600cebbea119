"""The command group, and the one place that turns a user error into one line and exit code 2."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

import click

from cgbench import __version__
from cgbench.errors import UserError, choices
from cgbench.storage.standard_streams import broken, prepared, silence

__all__ = ["COMMANDS", "guarded", "main"]

COMMANDS = {
    "check": "Check that a method and a system meet the contracts.",
    "compare": "Test what got better or worse between two sets of results.",
    "doctor": "Check the installation and a folder of runs.",
    "export": "Write the PMF of a run for another program.",
    "leaderboard": "Rank methods in a table.",
    "list": "List systems, methods and presets.",
    "paper": "Regenerate the figures and tables of the paper.",
    "reference": "Build, show and verify reference PMFs.",
    "report": "Write an HTML report of runs.",
    "rescore": "Compute the metrics of finished runs again.",
    "run": "Run a method on a system, or resume a run.",
    "score": "Score a PMF, samples or a trajectory of another program.",
    "sweep": "Run everything in a sweep file.",
    "system": "Define a molecule as a system, from a file.",
}
ROOMS = {"export": "external", "score": "external"}  # packages in `cgbench.cli` of commands that are not in itself
ROOMS |= dict.fromkeys(("compare", "leaderboard", "report", "rescore"), "results")
OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EBADF)  # of files, these become user errors
EPILOG = (
    "'cgbench COMMAND --help' describes a command. "
    "Exit codes: 0 success, 1 failed run or check, 2 invalid request, 130 interrupted."
)


class _Commands(click.Group):
    """Imports a command only when it is called, which keeps help fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        room = f"{ROOMS[cmd_name]}." if cmd_name in ROOMS else ""
        module = importlib.import_module(f"cgbench.cli.{room}{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=_Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cgbench")
def cgbench() -> None:
    """Benchmark methods that compute potentials of mean force (PMFs).

    Every energy evaluation is counted, and every PMF is scored against a reference PMF.
    """


def _usage(error: click.UsageError) -> str:
    """Describe an invalid command line in one line, with the valid choices."""
    if isinstance(error, click.NoSuchOption):
        known: Sequence[str] = []
        if error.ctx is not None:
            known = [name for p in error.ctx.command.params for name in p.opts if name.startswith("--")]
        return f"unknown option {error.option_name}: choose from {choices(known)}"
    message = " ".join(error.format_message().split())
    if error.ctx is not None and isinstance(error.ctx.command, click.Group):
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            message = "missing command"
        return f"{message.rstrip('.')}: choose from {choices(error.ctx.command.list_commands(error.ctx))}"
    return message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a failed run or check, 2 for an invalid request."""
    return guarded(cgbench, "cgbench", arguments)


def guarded(
    command: click.Command,
    name: str,
    arguments: Sequence[str] | None = None,
    *,
    after_interrupt: str = "run the same command again to resume from the last checkpoint",
) -> int:
    """Run a command and return its exit code; print a user error as one line.

    Parameters
    ----------
    command, name
        The command, and its name in messages.
    arguments
        Command-line arguments; those of the process by default.
    after_interrupt
        What to tell the user after an interrupt.
    """
    if os.name == "nt":
        print(f"{name}: cgbench runs on Linux and macOS; on Windows, use WSL", file=sys.stderr)
        return 2
    with prepared():
        problem: OSError | None = None
        try:
            code = _call(command, name, arguments, after_interrupt)
        except OSError as error:
            if error.errno not in OUTPUT_ERRORS or error.filename is not None:
                raise
            code, problem = 1, error
        problem = broken(sys.stdout) or problem
        if problem is not None:
            silence(sys.stdout)
            code = code or 1
            if problem.errno != errno.EPIPE:  # a reader that has closed the pipe needs no message
                print(f"{name}: cannot write to standard output: {problem.strerror}", file=sys.stderr)
        if broken(sys.stderr) is not None:
            silence(sys.stderr)
        return code


def _call(command: click.Command, name: str, arguments: Sequence[str] | None, after_interrupt: str) -> int:
    try:
        code = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except click.UsageError as error:
        print(f"{name}: {_usage(error)}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        print(f"{name}: {error.format_message()}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, click.Abort):
        print(f"{name}: interrupted; {after_interrupt}", file=sys.stderr)
        return 130
    return int(code or 0)
