"""Checks of a method: its class, its presets, and what it returns at every estimate."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from cgbench.conformance.failures import Failure
from cgbench.conformance.observed_run import MethodOutput
from cgbench.conformance.pair import Pair
from cgbench.contracts.maps import as_estimate
from cgbench.contracts.method import AuxiliaryEstimate, MethodConfig
from cgbench.contracts.pmf import PMF
from cgbench.contracts.system import maps_of
from cgbench.errors import UserError
from cgbench.running.configuration import make_config, preset_names
from cgbench.running.record import to_json

__all__ = ["method_contract", "positive_pmf"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
STORABLE = "checkpoints hold tensors, numbers, strings, None, and lists, tuples and dicts of these"


def method_contract(pair: Pair) -> str:
    """Check the class, the presets, and everything that the method returns while it runs."""
    _check_class(pair)
    outputs, error = pair.outputs
    if error is not None:
        raise Failure(f"estimates() fails after {len(outputs)} estimates: {pair.explain(error)}") from error
    if not outputs:
        raise Failure("estimates() ends without an estimate; it must yield a PMF wherever the method could stop")
    for number, one in enumerate(outputs, 1):
        where = f"at estimate {number}"
        _check_estimate(one.estimate, pair, f"estimates() {where}")
        _check_auxiliary(one, pair, where)
        _check_arrays(one, where)
        _check_state(one.state, where)
        _check_diagnostics(one.diagnostics, where)
    presets = preset_names(pair.method_class, pair.plan.system.name)
    declared = "declared" if pair.method_class.given else "not declared"
    return (
        f"{len(outputs)} estimates on the grid, states that can be stored, presets {', '.join(presets)}; what is given "
        f"in advance is {declared}"
    )


def _check_class(pair: Pair) -> None:
    cls, system = pair.method_class, pair.plan.system.name
    if inspect.isabstract(cls):
        raise Failure(f"{cls.__name__} lacks {', '.join(sorted(cls.__abstractmethods__))}")
    if not isinstance(cls.name, str) or not NAME.fullmatch(cls.name):
        raise Failure(f"the name {cls.name!r} cannot name a folder; use only letters, digits, and _.-")
    if not (isinstance(cls.Config, type) and issubclass(cls.Config, MethodConfig)):
        raise Failure(f"Config is {cls.Config!r}; derive it from cgbench.contracts.method.MethodConfig")
    for preset in preset_names(cls, system):
        try:
            make_config(cls, system, preset)
        except UserError as error:
            raise Failure(str(error)) from error


def _check_estimate(found: Any, pair: Pair, where: str) -> None:
    system = pair.plan.system
    try:
        as_estimate(found, maps_of(system), system.states)
    except (TypeError, ValueError) as error:
        raise Failure(f"{where}: {str(error).removeprefix('estimates() ')}") from error


def _check_auxiliary(one: MethodOutput, pair: Pair, where: str) -> None:
    for other in one.auxiliary:
        if not isinstance(other, AuxiliaryEstimate):
            raise Failure(
                f"auxiliary_estimates() {where} holds a {type(other).__name__}, "
                "not a cgbench.contracts.method.AuxiliaryEstimate"
            )
        _check_estimate(other.pmf, pair, f"auxiliary_estimates() {where}")
        if not 0 < other.share <= 1:
            raise Failure(
                f"auxiliary estimate {other.name!r} {where} has share {other.share}; it must be above 0 and at most 1"
            )


def _check_arrays(one: MethodOutput, where: str) -> None:
    if not isinstance(one.extra, Mapping):
        raise Failure(f"extra_arrays() {where} is a {type(one.extra).__name__}, not a dict")
    taken = set(one.extra) & set(one.estimate.arrays())  # a PMF has this method too
    if taken:
        raise Failure(f"extra_arrays() {where} would replace {', '.join(sorted(taken))} of pmf.npz; choose other names")
    for name, array in one.extra.items():
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise Failure(f"extra_arrays()[{name!r}] {where} is a {type(array).__name__}, not a numpy array of numbers")


def _check_state(state: Any, where: str) -> None:
    if not isinstance(state, dict):
        raise Failure(f"state_dict() {where} is a {type(state).__name__}, not a dict")
    for place, value in _leaves(state, "state_dict()"):
        if not isinstance(value, torch.Tensor) and type(value) not in (int, float, bool, str, type(None)):
            kind = type(value)
            raise Failure(f"{place} {where} is a {kind.__module__}.{kind.__qualname__}; {STORABLE}")
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception as error:  # torch may fail in any way
        reason = str(error).strip().splitlines()[0]
        raise Failure(
            f"state_dict() {where} cannot be stored and loaded without running code: {reason}; {STORABLE}"
        ) from error


def _leaves(value: Any, place: str) -> list[tuple[str, Any]]:
    """Return everything in a state that is not a container, with its place."""
    if isinstance(value, dict):
        keys = [(f"a key of {place}", key) for key in value]
        return keys + [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{place}[{key!r}]")]
    if isinstance(value, (list, tuple)):
        return [leaf for index, inner in enumerate(value) for leaf in _leaves(inner, f"{place}[{index}]")]
    return [(place, value)]


def _check_diagnostics(diagnostics: Any, where: str) -> None:
    if not isinstance(diagnostics, dict) or not all(isinstance(name, str) for name in diagnostics):
        raise Failure(f"diagnostics() {where} is not a dict with strings as keys: {diagnostics!r:.60}")
    for name, value in diagnostics.items():
        try:
            to_json(value)
        except (TypeError, ValueError) as error:
            raise Failure(
                f"diagnostics()[{name!r}] {where} cannot be written as JSON: {error}; use float(), int() or .tolist()"
            ) from error


def positive_pmf(pair: Pair) -> str:
    """Check that every estimate is finite, positive and normalised, and that its errors are finite, if it has any."""
    outputs, error = pair.outputs
    estimates = [
        (number, pmf)
        for number, one in enumerate(outputs, 1)
        for pmf in getattr(one.estimate, "pmfs", [one.estimate])
        if isinstance(pmf, PMF)
    ]
    if not estimates:
        raise Failure(f"there is no PMF to check{f': {pair.explain(error)}' if error else ''}")
    lowest = np.inf
    for number, pmf in estimates:
        p, std = pmf.probability, pmf.free_energy_std
        if not np.all(np.isfinite(p)):
            raise Failure(f"estimate {number} is not finite in {np.sum(~np.isfinite(p))} of {p.size} bins")
        if np.any(p <= 0):
            raise Failure(
                f"estimate {number} is not positive in {np.sum(p <= 0)} of {p.size} bins; a histogram needs a "
                f"pseudocount, see PMF.from_counts"
            )
        if abs(p.sum() - 1.0) > 1e-9:
            raise Failure(f"the probabilities of estimate {number} sum to {p.sum()!r}, not to 1")
        if std is not None and not (np.all(np.isfinite(std)) and np.all(std >= 0)):
            raise Failure(f"free_energy_std of estimate {number} must be finite and non-negative everywhere")
        lowest = min(lowest, float(p.min()))
    return f"{len(outputs)} estimates, lowest probability of a bin {lowest:.1e}"
