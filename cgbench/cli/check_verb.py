"""``cgbench check``."""

from __future__ import annotations

import tempfile
import textwrap
from pathlib import Path
from typing import Any

import click

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
    from cgbench.conformance import Pair, run_checks
    from cgbench.errors import UserError

    with tempfile.TemporaryDirectory(prefix="cgbench-check-") as folder:
        try:
            pair = Pair(system, method, Path(folder), **options)
            pair.prepare("first").folder.release()
        except UserError:
            raise
        except Exception as error:  # a plugin may fail in any way
            print(f"FAILED start: {type(error).__name__}: {' '.join(str(error).split())}")
            return 1
        print(f"{pair}: about a dozen short runs for all checks")
        failures = done = 0
        for outcome in run_checks(pair, names):
            done += 1
            failures += not outcome.passed
            print(f"{'ok    ' if outcome.passed else 'FAILED'} {outcome.name}: {outcome.detail}", flush=True)
            if logs and outcome.log:
                print(textwrap.indent(outcome.log.rstrip(), "       "), flush=True)
    print(f"{pair}: {f'{failures} of {done} checks failed' if failures else f'all {done} checks passed'}")
    return 1 if failures else 0
