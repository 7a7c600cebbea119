"""The command group, and the one place where a user's mistake becomes one line and exit code 2."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from cgbench import __version__
from cgbench.errors import UserError, choices

__all__ = ["main"]

VERBS = {
    "check": "Does a method on a system keep every promise? For those who write one.",
    "compare": "Say what got better or worse between two sets of results.",
    "doctor": "Can this installation run what is registered?",
    "leaderboard": "Rank the records of runs, in a table.",
    "list": "List systems, methods and presets.",
    "paper": "Regenerate the figures and tables of the paper from the records of runs.",
    "reference": "Build, show and verify the ground truth of a system.",
    "report": "Write one HTML page that shows the records of runs.",
    "run": "Run a method on a system, or go on with a run.",
    "system": "Write, and explain, the file that makes a molecule a system.",
    "sweep": "Make all runs that a file names.",
}


class _Verbs(click.Group):
    """Imports a verb only when it is called, so that help is immediate."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"cgbench.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(sorted(VERBS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cgbench")
def cgbench() -> None:
    """Benchmark methods that compute the potential of mean force of a molecule."""


def _usage(error: click.UsageError) -> str:
    """One line for a mistake in the command line itself, with what would be right."""
    if isinstance(error, click.NoSuchOption):
        known: Sequence[str] = []
        if error.ctx is not None:
            known = [name for p in error.ctx.command.params for name in p.opts if name.startswith("--")]
        return f"unknown option {error.option_name}: choose from {choices(known)}"
    message = " ".join(error.format_message().split())
    if error.ctx is not None and isinstance(error.ctx.command, click.Group):
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            message = f"{error.ctx.command_path}: a verb is missing"
        return f"{message.rstrip('.')}: choose from {choices(error.ctx.command.list_commands(error.ctx))}"
    return message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a failed run or check, 2 for a mistake."""
    return guarded(cgbench, "cgbench", arguments)


def guarded(
    command: click.Command,
    name: str,
    arguments: Sequence[str] | None = None,
    *,
    after_interrupt: str = "the same command goes on from the last checkpoint",
) -> int:
    """Run a command; a mistake costs one line, and exit code 2.

    Parameters
    ----------
    command, name
        The command, and what it is called in messages.
    arguments
        Those of the process by default.
    after_interrupt
        What an interrupted user is told.
    """
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
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return int(code or 0)
