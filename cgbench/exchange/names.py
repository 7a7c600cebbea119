"""Which map, axis or column of a file is meant, by the names in the file or by what the user says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cgbench.contracts.maps import Map
from cgbench.errors import UserError, choices

__all__ = ["axis_order", "cv_columns", "find_map", "named_axes", "without_spaces"]


def find_map(names: Sequence[str], maps: Sequence[Map], wanted: str | None, where: str) -> Map:
    """Return the map that a PMF is on.

    Parameters
    ----------
    names
        Names of its axes; "" for axes without a name.
    maps
        The maps of the system.
    wanted
        Name of the map as the user gives it, or None.
    where
        The file, for messages.

    Raises
    ------
    UserError
        If there is no map of that name, or if there are several maps and the names do not fit exactly one.
    """
    known = {one.name: one for one in maps}
    if wanted is not None:
        if wanted not in known:
            raise UserError(f"the system has no map {wanted!r} (--map): choose from {choices(known)}")
        return known[wanted]
    fits = [one for one in maps if len(maps) == 1 or _fits(names, one.cvs.names)]
    if len(fits) != 1:
        named = f"its axes are called {', '.join(names)}" if any(names) else "it does not name its axes"
        raise UserError(f"{where} does not tell which map it is on: {named}; give --map: {choices(known)}")
    return fits[0]


def _fits(names: Sequence[str], cvs: Sequence[str]) -> bool:
    """Whether each CV is one of the axes, and each axis one of the CVs."""
    found = [[k for k, name in enumerate(names) if _matches(name, cv)] for cv in cvs]
    return len(names) == len(cvs) == len({one[0] for one in found if len(one) == 1})


def _matches(name: str, cv: str) -> bool:
    """Whether an axis is a CV, such as "phi.x", "t_phi" and "phi" for "phi", and "phi_2" and "phi2" for "phi 2"."""
    low = cv.lower()
    joined = re.sub(r"\s", "", low)
    return bool(name) and (
        low in (name.lower(), *name.lower().replace("_", ".").split("."))
        or joined in (re.sub(r"[\s_.]", "", part) for part in (name.lower(), *name.lower().split(".")))
    )


def axis_order(
    names: Sequence[str], cvs: Sequence[str], wanted: Sequence[str], where: str
) -> tuple[tuple[int, ...], list[str]]:
    """Return for each CV the index of its axis, and what was assumed.

    Parameters
    ----------
    names, cvs, wanted, where
        As for `named_axes`; `wanted` is empty if the user says nothing.

    Raises
    ------
    UserError
        As for `named_axes`, or if the names contradict the CVs.
    """
    if wanted:
        return named_axes(names, cvs, wanted, where), []
    found = [[k for k, name in enumerate(names) if _matches(name, cv)] for cv in cvs]
    chosen = [one[0] for one in found if len(one) == 1]
    if len(chosen) == len(cvs) == len(set(chosen)):
        return tuple(chosen), []
    rest = min(set(range(len(cvs))) - set(chosen))
    if len(chosen) == len(set(chosen)) == len(cvs) - 1 and not names[rest]:  # the last one is what remains
        return tuple(one[0] if len(one) == 1 else rest for one in found), []
    named = f"its axes are called {', '.join(names)}" if any(names) else "the file does not name its axes"
    if any(found):
        raise UserError(f"{where} does not tell which axis is which of {', '.join(cvs)}: {named}; give --axes")
    return tuple(range(len(cvs))), [f"axes in the order {', '.join(cvs)}: {named} (--axes gives another order)"]


def named_axes(names: Sequence[str], cvs: Sequence[str], wanted: Sequence[str], where: str) -> tuple[int, ...]:
    """Return for each CV the index of its axis or column in a file, as the user names it.

    Parameters
    ----------
    names
        Names of the axes or columns; "" for those without a name.
    cvs
        Names of the CVs.
    wanted
        For each CV the name or the number (from 1) of its axis or column.
    where
        The file, for messages.

    Raises
    ------
    UserError
        If these are not different axes of the file, one for each CV.
    """
    known = {str(k + 1): k for k in range(len(names))} | {name: k for k, name in enumerate(names) if name}
    found = [known.get(name, known.get(without_spaces(name))) for name in wanted]
    places = tuple(k for k in found if k is not None)
    if not len(places) == len(found) == len(cvs) == len(set(places)):
        raise UserError(
            f"--axes {','.join(wanted)} does not name one axis of {where} for each of {', '.join(cvs)}: choose from "
            f"{choices(known)}"
        )
    return places


def cv_columns(names: Sequence[str], cvs: Sequence[str], wanted: Sequence[str], where: str) -> tuple[int, ...]:
    """Return for each CV the index of its column in a table of samples.

    Parameters
    ----------
    names, cvs, wanted, where
        As for `named_axes`; `wanted` is empty if the user says nothing. Columns without any names are then the CVs in
        their order, if there is one for each.

    Raises
    ------
    UserError
        As for `named_axes`, or if a CV has no column.
    """
    if not wanted and not any(names) and len(names) == len(cvs):
        return tuple(range(len(cvs)))
    missing = [name for name in cvs if not {name, without_spaces(name)} & set(names)]
    if missing and not wanted:
        known = choices(name for name in names if name)
        raise UserError(f"{where} has no column {missing[0]!r}: choose from {known} with --axes, in CV order")
    return named_axes(names, cvs, wanted or cvs, where)


def without_spaces(name: str) -> str:
    """Return the name of a CV as files without spaces in names have it, such as "phi_2" for "phi 2"."""
    return "_".join(name.split())
