"""``cgbench check``."""

from __future__ import annotations

import tempfile
import textwrap
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cgbench.conformance import Outcome

__all__ = ["command"]


@click.command("check")
@click.option("--method", required=True, metavar="NAME", help="Registered method, or path/to/file.py:Class.")
@click.option("--system", required=True, metavar="NAME", help="Name, path/to/file.py:Class, or a molecule's YAML file.")
@click.option("--preset", metavar="NAME", help='Preset of the method.  [default: "smoke" if it exists, else "default"]')
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting. Repeatable.")
@click.option("--engine", metavar="NAME", help="Engine of the system.  [default: its first]")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Random seed.")
@click.option("--check", "names", multiple=True, metavar="NAME", help="Run only this check. Repeatable.")
@click.option("--traceback", "logs", is_flag=True, help="Show the traceback of each failure.")
def command(system: str, method: str, names: tuple[str, ...], logs: bool, **options: Any) -> int:
    """Check that a method and a system meet the contracts of the harness.

    For developers of methods and systems. Makes about fifteen runs in a temporary folder and prints one line per check;
    small runs are sufficient. The exit code is 1 if a check fails.
    """
    from cgbench.conformance import Outcome, Pair, run_checks
    from cgbench.errors import PluginError, UserError
    from cgbench.running.plugins import explain

    try:
        temporary = tempfile.TemporaryDirectory(prefix="cgbench-check-")
    except OSError as error:
        raise UserError(f"no temporary folder can be written: {error.strerror}; set TMPDIR to another") from error
    with temporary as folder:
        try:
            pair = Pair(system, method, Path(folder), **options)
            outcomes = run_checks(pair, names)
            pair.prepare("start").folder.release()  # the constructor may reject a system or a setting
        except Exception as error:  # a plugin may fail in any way
            cause = error.__cause__ if isinstance(error, PluginError) else error
            if cause is None or isinstance(cause, UserError):
                raise
            words = explain(cause)
            _print(Outcome("start", False, f"the run cannot be set up: {words}", traceback.format_exc()), logs)
            return 1
        print(f"{pair}: about fifteen runs for all checks", flush=True)
        passed = []
        for outcome in outcomes:
            _print(outcome, logs)
            passed.append(outcome.passed)
    failures = passed.count(False)
    print(f"{pair}: {failures or 'none'} of {len(passed)} checks failed")
    return 1 if failures else 0


def _print(outcome: Outcome, logs: bool) -> None:
    print(f"{'ok    ' if outcome.passed else 'FAILED'} {outcome.name}: {outcome.detail}", flush=True)
    if logs and outcome.log:
        print(textwrap.indent(outcome.log.rstrip(), "       "), flush=True)
