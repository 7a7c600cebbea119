"""Checks of a system's coordinates: they are a bijection, with the right Jacobian."""

from __future__ import annotations

import math

import torch

from cgbench.conformance.failures import Failure
from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.system import System

__all__ = ["check_coordinates"]

TOLERANCE = 1e-6
JACOBIANS = 3  # configurations whose Jacobian is computed by automatic differentiation


def check_coordinates(system: System, x: torch.Tensor) -> str:
    """Check all coordinate sets of a system on configurations ``x``, and describe the result.

    Raises
    ------
    Failure
        For the first requirement that is not met.
    """
    worst, compared = 0.0, True
    for name, coordinates in system.coordinate_sets.items():
        where = f"coordinates {name!r}"
        try:
            worst = max(worst, _round_trip(system, coordinates, x))
            compared &= _jacobian(system, coordinates, x[:JACOBIANS])
        except Failure as failure:
            raise Failure(f"{where}: {failure}") from failure
    verified = "and Jacobian agree" if compared else "agrees (Jacobian not compared)"
    return f"round trip {verified} to {max(worst, 1e-15):.0e}"


def _round_trip(system: System, coordinates: Coordinates, x: torch.Tensor) -> float:
    s, y, log_det = coordinates.to_internal(x)
    fine = len(coordinates.names)
    shapes = ([len(x), len(system.cvs)], [len(x), fine], [len(x)])
    for name, value, shape in zip(("s", "y", "log_abs_det_jacobian"), (s, y, log_det), shapes, strict=True):
        if list(value.shape) != shape:
            raise Failure(f"to_internal gives {name} of shape {list(value.shape)}, not {shape}")
    for name in ("periodic", "lower", "upper"):
        if list(getattr(coordinates, name).shape) != [fine]:
            raise Failure(f"{name} has shape {list(getattr(coordinates, name).shape)}, not [{fine}] as names")
    if not coordinates.in_domain(y).all():
        raise Failure("y of configurations near the initial one is outside the bounds lower and upper")
    if not coordinates.in_state_space(system.initial_configuration()[None]).all():
        raise Failure("in_state_space rejects the initial configuration")
    back, log_det_back = coordinates.to_cartesian(s, y)
    s_back, y_back, _ = coordinates.to_internal(back)
    turn = y_back - y
    period = (coordinates.upper - coordinates.lower).to(turn)
    turn = torch.where(coordinates.periodic, turn - torch.round(turn / period.nan_to_num(1.0, 1.0)) * period, turn)
    turn = torch.where(coordinates.periodic | turn.isfinite(), turn, math.inf)
    energy, energy_back = (system.reduced_energy_and_gradient(z)[0] for z in (x, back))
    scale = 1.0 + float(energy.abs().max())
    found = {
        "s differs from collective_variables": system.cvs.difference(s, system.collective_variables(x)),
        "the round trip changes s": system.cvs.difference(s_back, s),
        "the round trip changes y": turn,
        "the round trip changes the energy": (energy_back - energy) / scale,
        "log_abs_det_jacobian of the map and of its inverse do not cancel": log_det + log_det_back,
    }
    worst = 0.0
    for words, difference in found.items():
        size = float(difference.abs().max())
        if not size <= TOLERANCE * (10 if "energy" in words else 1):
            raise Failure(f"{words}, by {size:.1e}; rounding explains at most {TOLERANCE:.0e}")
        worst = max(worst, size)
    return worst


def _jacobian(system: System, coordinates: Coordinates, x: torch.Tensor) -> bool:
    """Compare the log-determinant with automatic differentiation, up to a constant; return whether that was possible.

    The round trip cannot detect a determinant that is wrong in both directions. If rigid motion is integrated out,
    translations and infinitesimal rotations at the identity complete the Jacobian to a square matrix.
    """
    s, y, _ = coordinates.to_internal(x)
    s, y = s.detach(), y.detach()
    _, stated = coordinates.to_cartesian(s, y)
    computed = []
    for one in range(len(x)):

        def build(both: torch.Tensor) -> torch.Tensor:
            return coordinates.to_cartesian(both[None, : s.shape[1]], both[None, s.shape[1] :])[0].reshape(-1)

        both = torch.cat([s[one], y[one]])
        matrix: torch.Tensor = torch.autograd.functional.jacobian(build, both)
        if len(matrix) == len(both) + 6 and x.dim() == 3:
            matrix = torch.cat([matrix, _rigid_motions(build(both).reshape(-1, 3))], dim=1)
        if matrix.shape[0] != matrix.shape[1]:
            return False
        computed.append(torch.linalg.slogdet(matrix)[1])
    difference = stated.detach() - torch.stack(computed)
    size = float((difference - difference[0]).abs().max())
    if not size <= TOLERANCE:
        raise Failure(
            f"log_abs_det_jacobian differs from automatic differentiation of to_cartesian by {size:.1e} from one "
            f"configuration to another; rounding explains at most {TOLERANCE:.0e}"
        )
    return True


def _rigid_motions(x: torch.Tensor) -> torch.Tensor:
    """Return velocities ``[3 atoms, 6]`` of translations along, and rotations about, the three axes."""
    columns = []
    for axis in torch.eye(3, dtype=x.dtype, device=x.device):
        columns += [axis.expand_as(x).reshape(-1), torch.linalg.cross(axis.expand_as(x), x).reshape(-1)]
    return torch.stack(columns, dim=1)
