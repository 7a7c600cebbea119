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


@click.command("check", help="Does a method on a system keep every promise of the harness? For those who write one.")
@click.option("--method", required=True, help="Registered method, or path/to/file.py:Class.")
@click.option("--system", required=True, help="Registered system, or path/to/file.py:Class.")
@click.option("--preset", help='By default "smoke" where there is one, else "default".')
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the preset; small runs will do.")
@click.option("--engine", help="Engine of the system.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--check", "names", multiple=True, metavar="NAME", help="Only this check; may be repeated.")
@click.option("--traceback", "logs", is_flag=True, help="Show where exceptions came from.")
def command(system: str, method: str, names: tuple[str, ...], logs: bool, **options: Any) -> int:
    """Run the pair in a temporary folder and print a line for every check; exit code 1 if one fails."""
    from cgbench.conformance import Outcome, Pair, run_checks
    from cgbench.errors import UserError

    with tempfile.TemporaryDirectory(prefix="cgbench-check-") as folder:
        try:
            pair = Pair(system, method, Path(folder), **options)
            outcomes = run_checks(pair, names)
            pair.prepare("start").folder.release()  # a method may refuse a system or a setting when it is made
        except UserError:
            raise
        except Exception as error:  # a plugin may fail in any way
            words = f"{type(error).__name__}: {' '.join(str(error).split())}"
            _print(Outcome("start", False, f"the pair cannot be made: {words}", traceback.format_exc()), logs)
            return 1
        print(f"{pair}: some fifteen runs for all checks", flush=True)
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
