"""Numbers on the command line."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["EVALUATIONS"]


class _Evaluations(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on
    """A whole number of energy evaluations, also written as 2e7 or 20,000,000."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or refuse what is none."""
        try:
            number = float(str(value).replace(",", ""))
        except ValueError:
            number = 0.5
        if not abs(number) < 1e18 or number != int(number):
            self.fail(f"{value!r} is not a whole number of evaluations, such as 20000000 or 2e7", param, ctx)
        return int(number)


EVALUATIONS = _Evaluations()
