"""Turn force-field parameters into the constant arrays of the batched kernels, with energies in kT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cgbench.errors import UserError
from cgbench_systems.molecular.parameters import COULOMB_CONSTANT, OFFSET, BornParameters, ForceFieldParameters

__all__ = ["INDICES", "to_arrays"]

INDICES = frozenset(
    ("first", "second", "angle_i", "angle_j", "angle_k") + ("torsion_i", "torsion_j", "torsion_k", "torsion_l")
)


def to_arrays(parameters: ForceFieldParameters, beta: float) -> dict[str, torch.Tensor]:
    """Return all constant arrays by name: atom indices (`INDICES`) in int64, the others in float64.

    Parameters
    ----------
    parameters
        Force-field parameters in OpenMM's units.
    beta
        1 / kT in mol/kJ.
    """
    first, second = np.triu_indices(parameters.atoms, k=1)
    c: dict[str, Any] = {"first": first, "second": second}
    sigma6 = parameters.sigma[first, second] ** 6
    epsilon = beta * parameters.epsilon[first, second]
    c["c6"], c["c12"] = 4 * epsilon * sigma6, 4 * epsilon * sigma6**2
    c["coulomb"] = beta * COULOMB_CONSTANT * parameters.charge_product[first, second]
    c |= _bonds(parameters, beta)
    angles = np.array([a[:3] for a in parameters.angles], dtype=np.int64).reshape(-1, 3)
    c |= dict(zip(("angle_i", "angle_j", "angle_k"), angles.T, strict=True))
    c["angle_theta"] = [a[3] for a in parameters.angles]
    c["angle_k_theta"] = [beta * a[4] for a in parameters.angles]
    quadruples = sorted({a[:4] for a in parameters.torsions})
    torsions = np.array(quadruples, dtype=np.int64).reshape(-1, 4)
    c |= dict(zip(("torsion_i", "torsion_j", "torsion_k", "torsion_l"), torsions.T, strict=True))
    c |= _waves(parameters, beta, quadruples)
    c["incidence"] = _incidence(parameters.atoms, first, second, angles, torsions)
    if parameters.born is not None:
        c |= _born(parameters.born, beta, first, second)
    return {
        name: torch.as_tensor(np.asarray(value, dtype=np.int64 if name in INDICES else np.float64))
        for name, value in c.items()
    }


def _bonds(parameters: ForceFieldParameters, beta: float) -> dict[str, np.ndarray]:
    """Return a length and a stiffness for every pair, with zero stiffness where there is no bond.

    Bonds are evaluated with the nonbonded pairs, which needs no scattering.
    """
    length, stiffness = np.ones((2, parameters.atoms, parameters.atoms))
    stiffness[:] = 0.0
    for i, j, bond_length, k in parameters.bonds:
        pair = min(i, j), max(i, j)
        if stiffness[pair]:
            raise UserError(f"the batched force field does not support two bonds between atoms {i} and {j}")
        length[pair], stiffness[pair] = bond_length, beta * k
    pairs = np.triu_indices(parameters.atoms, k=1)
    return {"bond_length": length[pairs], "bond_k": stiffness[pairs]}


def _waves(parameters: ForceFieldParameters, beta: float, quadruples: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """Return the amplitudes of ``cos(n phi)`` and ``sin(n phi)``, ``[n, torsions]``, and the constant term."""
    row = {quadruple: index for index, quadruple in enumerate(quadruples)}
    top = max((a[4] for a in parameters.torsions), default=1)
    cosine, sine = np.zeros((2, top + 1, len(quadruples)))
    constant = 0.0
    for *quadruple, n, phase, barrier in parameters.torsions:
        constant += beta * barrier
        cosine[n, row[tuple(quadruple)]] += beta * barrier * np.cos(phase)
        sine[n, row[tuple(quadruple)]] += beta * barrier * np.sin(phase)
    return {"torsion_cos": cosine, "torsion_sin": sine, "torsion_constant": [constant]}


def _incidence(
    atoms: int, first: np.ndarray, second: np.ndarray, angles: np.ndarray, torsions: np.ndarray
) -> np.ndarray:
    """Return the matrix that sums term gradients into atom gradients, ``[atoms, terms]``, in the kernel's order."""
    blocks = [(first, second), (angles[:, 0], angles[:, 1]), (angles[:, 2], angles[:, 1])]
    # the four atom gradients of a torsion are combinations of those of its end atoms and one for the central bond
    blocks += [(torsions[:, 0], torsions[:, 1]), (torsions[:, 3], torsions[:, 2]), (torsions[:, 1], torsions[:, 2])]
    matrix = np.zeros((atoms, sum(len(plus) for plus, _ in blocks)))
    column = 0
    for plus, minus in blocks:
        span = np.arange(column, column + len(plus))
        matrix[plus, span] += 1.0
        matrix[minus, span] -= 1.0
        column += len(plus)
    return matrix


def _born(born: BornParameters, beta: float, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    radius = born.offset_radius + OFFSET
    # descreening is over ordered pairs: all (first by second), then all (second by first)
    ordered = np.zeros((len(radius), 2 * len(first)))
    ordered[np.concatenate([first, second]), np.arange(2 * len(first))] = 1.0
    return {
        "born_or": born.offset_radius,
        "born_sr": born.scaled_radius,
        "born_radius": radius,
        "born_self": 0.5 * beta * born.prefactor * born.charge**2,
        "born_pair": beta * born.prefactor * born.charge[first] * born.charge[second],
        "born_ace": beta * born.ace * (radius + 0.14) ** 2 * radius**6,
        "pair_or": np.concatenate([born.offset_radius[first], born.offset_radius[second]]),
        "pair_sr": np.concatenate([born.scaled_radius[second], born.scaled_radius[first]]),
        "ordered_incidence": ordered,
    }
