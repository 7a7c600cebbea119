"""Checks of a system: its attributes, and its energy on perturbed initial configurations."""

from __future__ import annotations

import math
from typing import Any

import torch

from cgbench.conformance.coordinates_contract import check_coordinates
from cgbench.conformance.failures import Failure
from cgbench.conformance.openmm_contract import check_openmm
from cgbench.conformance.pair import Pair
from cgbench.contracts.system import System
from cgbench.scoring.referee import Referee

__all__ = ["system_contract"]

CONFIGURATIONS = 6
STRAIN = 5.0  # kT per coordinate: largest energy of the perturbed configurations
ROUNDING = 1e-9  # relative; between a batch and its rows
AGREEMENT = 1e-4  # relative; of gradient and finite differences for an energy without noise
STEEPEST = 1e-3  # largest gradient at the start, relative to that of the perturbed configurations
NOISE = 0.02  # relative; largest disagreement of finite differences with two step sizes


def system_contract(pair: Pair) -> str:
    """Check attributes, energy and gradient, collective variables, OpenMM's model, coordinates and reference."""
    system = pair.plan.system
    _check_attributes(system)
    x = _perturbed(system)
    _check_energy(system, x)
    error = _check_gradient(system, x)
    _check_cvs(system, x)
    details = [f"gradient agrees with finite differences to {error:.0e}"]
    _check_masses(system, x)
    if "openmm" in system.traits:
        details.append(check_openmm(system, x))
    _check_minimum(system, x)
    if "coordinates" in system.traits:
        details.append(f"coordinates: {check_coordinates(system, x)}")
    referee = Referee(system)
    if referee.unbuilt:
        details.append("no reference yet, which runs do not need")
    elif referee.problem is not None:
        raise Failure(f"the reference cannot be used: {referee.problem}")
    return ", ".join(details)


def _check_attributes(system: System) -> None:
    for name, lower, upper in zip(system.cvs.names, system.cvs.lower, system.cvs.upper, strict=True):
        if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
            raise Failure(f"the domain of {name} is from {lower} to {upper}; it must be finite and not empty")
    start = system.initial_configuration()
    if start.dtype != torch.float64 or start.dim() < 1 or not start.isfinite().all():
        raise Failure(
            f"initial_configuration() must be finite float64 of shape [atoms, 3] or [dims], not {_shape(start)}"
        )


def _shape(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _perturbed(system: System) -> torch.Tensor:
    """Return configurations around the initial one, as far from it as the energy allows."""
    start = system.initial_configuration()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(CONFIGURATIONS, *start.shape, generator=generator, dtype=torch.float64).to(start.device)
    lowest = _energy(system, start[None])[0]
    width = 0.5
    while width > 1e-5:
        x = start + width * noise
        energy, _ = system.reduced_energy_and_gradient(x)
        if energy.isfinite().all() and (energy - lowest).abs().max() < STRAIN * start.numel():
            return x
        width /= 2
    raise Failure(
        "the energy rises or falls without bound around initial_configuration(); it must be a minimum to start from"
    )


def _energy(system: System, x: torch.Tensor) -> torch.Tensor:
    """Return energies, after checking their shape and that of the gradient."""
    before = x.clone()
    answer = system.reduced_energy_and_gradient(x)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise Failure(f"reduced_energy_and_gradient returns {type(answer).__name__}, not (energy, gradient)")
    for name, value, shape in (("energies", answer[0], [len(x)]), ("gradients", answer[1], list(x.shape))):
        if not isinstance(value, torch.Tensor) or list(value.shape) != shape or value.dtype != x.dtype:
            raise Failure(
                f"reduced_energy_and_gradient of {_shape(x)} returns {name} {_shape(value)}; "
                f"they must have shape {shape} and the dtype of x"
            )
    if not torch.equal(x, before):
        raise Failure("reduced_energy_and_gradient changes its argument; compute on a copy")
    return answer[0]


def _check_energy(system: System, x: torch.Tensor) -> None:
    energy = _energy(system, x)
    scale = float(energy.abs().max()) + 1.0
    _energy(system, x.float())
    single = torch.cat([_energy(system, row[None]) for row in x])
    again = _energy(system, x)
    if not torch.equal(again, energy):
        raise Failure(
            f"a second evaluation of the same configurations differs by {float((again - energy).abs().max()):.1e} kT; "
            f"energies must depend on x alone"
        )
    worst = float((single - energy).abs().max())
    if not worst <= ROUNDING * scale:
        raise Failure(f"energies of a batch differ from those of its rows by {worst:.1e} kT, more than rounding")
    leaf = x.clone().requires_grad_()
    differentiable = system.reduced_energy(leaf)
    if not differentiable.requires_grad:
        raise Failure("reduced_energy(x) is not differentiable; inherit it from cgbench.contracts.system.System")
    (gradient,) = torch.autograd.grad(differentiable.sum(), leaf)
    expected = system.reduced_energy_and_gradient(x)[1]
    apart = (gradient - expected).abs().max() / (expected.abs().max() + 1.0)
    worst = float(torch.maximum((differentiable.detach() - energy).abs().max() / scale, apart))  # keeps NaN
    if not worst <= ROUNDING:
        raise Failure(f"reduced_energy and reduced_energy_and_gradient differ by {worst:.1e}, relative")


def _check_gradient(system: System, x: torch.Tensor) -> float:
    """Compare the gradient along random directions with finite differences of the energy; return the relative error.

    Central differences of fourth order with two step sizes are used. Their disagreement measures the noise of the
    energy, for example from single precision, and widens the tolerance up to a limit.
    """
    generator = torch.Generator().manual_seed(1)
    start = system.initial_configuration()
    width = float((x - start).pow(2).mean().sqrt())
    _, gradient = system.reduced_energy_and_gradient(x)
    axes = tuple(range(1, x.dim()))
    slopes, coarse, fine = [], [], []
    for _ in range(4):
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
        slopes.append((gradient * direction).sum(axes))
        coarse.append(_slope(system, x, direction, 0.02 * width))
        fine.append(_slope(system, x, direction, 0.01 * width))
    exact, wide, narrow = (torch.stack(values) for values in (slopes, coarse, fine))
    typical = max(_rms(exact), _rms(narrow))
    noise = _rms(wide - narrow) / typical
    if not noise < NOISE:
        raise Failure(
            f"finite differences of the energy disagree among themselves by {noise:.0%}; the energy must be smooth"
        )
    error = _rms(narrow - exact) / typical
    allowed = AGREEMENT + 3 * noise
    if not error <= allowed:
        raise Failure(
            f"the gradient differs from finite differences of the energy by {error:.1e}, relative, on configurations "
            f"{width:.1g} around the initial one; rounding explains at most {allowed:.0e}"
        )
    return error


def _slope(system: System, x: torch.Tensor, direction: torch.Tensor, step: float) -> torch.Tensor:
    def energy(steps: int) -> torch.Tensor:
        return system.reduced_energy_and_gradient(x + steps * step * direction)[0]

    return (8 * (energy(1) - energy(-1)) - (energy(2) - energy(-2))) / (12 * step)


def _rms(values: torch.Tensor) -> float:
    return float(values.pow(2).mean().sqrt())


def _check_cvs(system: System, x: torch.Tensor) -> None:
    cvs = system.cvs
    s = system.collective_variables(x)
    if list(s.shape) != [len(x), len(cvs)] or not s.isfinite().all():
        raise Failure(f"collective_variables of {_shape(x)} must be finite and [{len(x)}, {len(cvs)}], not {_shape(s)}")
    start = system.collective_variables(system.initial_configuration()[None])
    for axis, name in enumerate(cvs.names):
        low, high = cvs.lower[axis], cvs.upper[axis]
        column = torch.cat([start, s] if cvs.periodic[axis] else [start])[
            :, axis
        ]  # a walker may leave a non-periodic domain
        outside = column[(column < low) | (column > high)]
        if len(outside):
            value = float(outside[0])
            degrees = cvs.unit == "rad" and abs(math.radians(value)) <= 2 * math.pi and abs(value) > 2 * math.pi
            hint = "; it seems to be in degrees, but the unit of the CVs is rad" if degrees else ""
            raise Failure(f"{name} is {value:.6g}, outside its domain from {low:.6g} to {high:.6g}{hint}")


def _check_masses(system: System, x: torch.Tensor) -> None:
    if "molecular" in system.traits:
        masses = system.masses
        if masses is None or list(masses.shape) != [x.shape[1]] or not (masses > 0).all():
            raise Failure(f'trait "molecular": masses must be positive and [{x.shape[1]}], not {_shape(masses)}')


def _gradient_norm(system: System, x: torch.Tensor) -> float:
    return float(system.reduced_energy_and_gradient(x[None])[1].norm())


def _check_minimum(system: System, x: torch.Tensor) -> None:
    """Check that the start is a minimum: its gradient vanishes, and the energy rises around it."""
    start = system.initial_configuration()
    lowest = _energy(system, start[None])
    _, around = system.reduced_energy_and_gradient(x)
    size = _gradient_norm(system, start)
    typical = float(around.flatten(1).norm(dim=1).mean())
    if not size <= STEEPEST * typical:
        if _gradient_norm(system, 0.1 * start) <= STEEPEST * size:
            raise Failure(
                "the gradient does not vanish at initial_configuration(), but at 0.1 times its positions: they seem to "
                "be in angstrom, and the energy expects nm"
            )
        raise Failure(
            f"the gradient at initial_configuration() has norm {size:.2g}, {size / typical:.1e} of that on perturbed "
            f"configurations; it must be a minimum (at most {STEEPEST:.0e}): minimise the energy further"
        )
    near = torch.cat([start + sign * 0.1 * (x - start) for sign in (1, -1)])
    rise = float((system.reduced_energy_and_gradient(near)[0] - lowest).mean())
    if rise < -1e-6 * (1.0 + float(lowest.abs())):
        raise Failure(
            f"the energy falls by {-rise:.2g} kT around initial_configuration(), which must be a minimum: "
            "has the energy the wrong sign?"
        )
