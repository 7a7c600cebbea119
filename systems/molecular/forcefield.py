"""A batched force field in torch: energies and analytic gradients of many configurations at once.

Every array has the batch innermost, ``[terms, batch]``, so that each operation is one long vector. Forces
of terms are gathered onto atoms by one multiplication with a constant incidence matrix, which is fast and,
unlike atomic additions, gives the same bits every time.
"""

from __future__ import annotations

import logging
import shutil
from typing import Any

import numpy as np
import openmm
import torch

from cgbench.errors import UserError
from systems.molecular.tables import COULOMB_CONSTANT, ForceFieldTables, read_system

__all__ = ["GAS_CONSTANT", "TorchForceField"]

GAS_CONSTANT = 0.00831446261815324  # kJ/(mol K)
EAGER_CHUNK = 256
COMPILED_CHUNK = 512

Terms = dict[str, torch.Tensor]


def _cross(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cross product along the first axis."""
    return torch.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Dot product along the first axis."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


class TorchForceField:
    """Energies and gradients of a molecule without cutoff, with or without OBC implicit solvent.

    Parameters
    ----------
    tables
        Parameters as read from an `openmm.System`.
    temperature
        In kelvin; energies come out in units of kT.

    Notes
    -----
    Generalized Born: Onufriev, Bashford, Case, Proteins 55, 383 (2004); torsion gradients: Blondel and
    Karplus, J. Comput. Chem. 17, 1132 (1996).
    """

    def __init__(self, tables: ForceFieldTables, temperature: float) -> None:
        self.tables = tables
        self.beta = 1.0 / (GAS_CONSTANT * temperature)
        self._constants: dict[tuple[torch.dtype, str], Terms] = {}
        self._master = self._prepare()
        self._compiled: Any = None

    @classmethod
    def from_openmm(cls, system: openmm.System, temperature: float) -> TorchForceField:
        """Build from an `openmm.System`.

        Raises
        ------
        UserError
            Naming a force or feature that is not supported.
        """
        return cls(read_system(system), temperature)

    # ---- constants ------------------------------------------------------------------------------

    def _prepare(self) -> Terms:
        """All constants in float64, energies in kT."""
        t, beta = self.tables, self.beta
        first, second = np.triu_indices(t.atoms, k=1)
        pair_of = {(int(i), int(j)): p for p, (i, j) in enumerate(zip(first, second, strict=True))}
        c: dict[str, Any] = {"first": first, "second": second}
        sigma6 = t.sigma[first, second] ** 6
        epsilon = beta * t.epsilon[first, second]
        c["c6"], c["c12"] = 4 * epsilon * sigma6, 4 * epsilon * sigma6**2
        c["coulomb"] = beta * COULOMB_CONSTANT * t.charge_product[first, second]
        c["bond_length"], c["bond_k"] = self._dense_bonds(pair_of)
        angles = np.array([a[:3] for a in t.angles], dtype=np.int64).reshape(-1, 3)
        for column, name in enumerate(("angle_i", "angle_j", "angle_k")):
            c[name] = angles[:, column]
        c["angle_theta"] = [a[3] for a in t.angles]
        c["angle_k_theta"] = [beta * a[4] for a in t.angles]
        quadruples = sorted({a[:4] for a in t.torsions})
        row = {quadruple: index for index, quadruple in enumerate(quadruples)}
        top = max((a[4] for a in t.torsions), default=1)
        cosine = np.zeros((top + 1, len(quadruples)))
        sine = np.zeros_like(cosine)
        constant = 0.0
        for *quadruple, n, phase, barrier in t.torsions:
            constant += beta * barrier
            cosine[n, row[tuple(quadruple)]] += beta * barrier * np.cos(phase)
            sine[n, row[tuple(quadruple)]] += beta * barrier * np.sin(phase)
        torsions = np.array(quadruples, dtype=np.int64).reshape(-1, 4)
        for column, name in enumerate(("torsion_i", "torsion_j", "torsion_k", "torsion_l")):
            c[name] = torsions[:, column]
        c["torsion_cos"], c["torsion_sin"], c["torsion_constant"] = cosine, sine, [constant]
        c["incidence"] = self._incidence(first, second, angles, torsions)
        if t.born is not None:
            self._prepare_born(c, first, second)
        return {
            name: torch.as_tensor(np.asarray(value, dtype=np.int64 if name in INDICES else np.float64))
            for name, value in c.items()
        }

    def _dense_bonds(self, pair_of: dict[tuple[int, int], int]) -> tuple[np.ndarray, np.ndarray]:
        """Lengths and stiffnesses for every pair, zero where there is no bond: no scattering is needed."""
        length, stiffness = np.ones(len(pair_of)), np.zeros(len(pair_of))
        for i, j, bond_length, k in self.tables.bonds:
            pair = pair_of[min(i, j), max(i, j)]
            if stiffness[pair]:
                raise UserError(f"the batched force field does not support two bonds between atoms {i} and {j}")
            length[pair], stiffness[pair] = bond_length, self.beta * k
        return length, stiffness

    def _incidence(self, first: np.ndarray, second: np.ndarray, angles: np.ndarray, torsions: np.ndarray) -> np.ndarray:
        """Matrix that gathers term gradients onto atoms, ``[atoms, terms]``, in the kernel's order."""
        blocks = [(first, second), (angles[:, 0], angles[:, 1]), (angles[:, 2], angles[:, 1])]
        # a torsion's four gradients are spanned by those of its ends and one along the axis
        blocks += [(torsions[:, 0], torsions[:, 1]), (torsions[:, 3], torsions[:, 2]), (torsions[:, 1], torsions[:, 2])]
        matrix = np.zeros((self.tables.atoms, sum(len(plus) for plus, _ in blocks)))
        column = 0
        for plus, minus in blocks:
            span = np.arange(column, column + len(plus))
            matrix[plus, span] += 1.0
            matrix[minus, span] -= 1.0
            column += len(plus)
        return matrix

    def _prepare_born(self, c: dict[str, Any], first: np.ndarray, second: np.ndarray) -> None:
        born, beta = self.tables.born, self.beta
        assert born is not None
        c["born_or"], c["born_radius"] = born.offset_radius, born.offset_radius + 0.009
        c["born_self"] = 0.5 * beta * born.prefactor * born.charge**2
        c["born_pair"] = beta * born.prefactor * born.charge[first] * born.charge[second]
        c["born_ace"] = beta * born.ace * (c["born_radius"] + 0.14) ** 2 * c["born_radius"] ** 6
        # descreening runs over ordered pairs: (first by second), then (second by first)
        c["pair_or"] = np.concatenate([born.offset_radius[first], born.offset_radius[second]])
        c["pair_sr"] = np.concatenate([born.scaled_radius[second], born.scaled_radius[first]])
        ordered = np.zeros((self.tables.atoms, 2 * len(first)))
        ordered[np.concatenate([first, second]), np.arange(2 * len(first))] = 1.0
        c["ordered_incidence"] = ordered

    def _get(self, dtype: torch.dtype, device: torch.device) -> Terms:
        key = (dtype, str(device))
        if key not in self._constants:
            self._constants[key] = {
                name: value.to(device) if name in INDICES else value.to(device, dtype)
                for name, value in self._master.items()
            }
        return self._constants[key]

    # ---- the terms ------------------------------------------------------------------------------

    def _angles(self, x: torch.Tensor, c: Terms) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Energy ``[batch]`` and gradients at the two ends ``[3, angles, batch]``."""
        centre = x.index_select(1, c["angle_j"])
        a, b = x.index_select(1, c["angle_i"]) - centre, x.index_select(1, c["angle_k"]) - centre
        cross = _cross(a, b)
        area = _dot(cross, cross).sqrt().clamp(min=1e-30)
        theta = torch.atan2(area, _dot(a, b))
        stretch = theta - c["angle_theta"][:, None]
        slope = c["angle_k_theta"][:, None] * stretch
        energy = (0.5 * slope * stretch).sum(0)
        at_i = (slope / (_dot(a, a) * area)) * _cross(a, cross)
        at_k = (-slope / (_dot(b, b) * area)) * _cross(b, cross)
        return energy, at_i, at_k

    def _torsions(self, x: torch.Tensor, c: Terms) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Energy ``[batch]`` and three independent gradient vectors ``[3, torsions, batch]`` each."""
        xi, xj = x.index_select(1, c["torsion_i"]), x.index_select(1, c["torsion_j"])
        xk, xl = x.index_select(1, c["torsion_k"]), x.index_select(1, c["torsion_l"])
        f, g, h = xi - xj, xj - xk, xl - xk
        a, b = _cross(f, g), _cross(h, g)
        a2, b2, g2 = _dot(a, a).clamp(min=1e-30), _dot(b, b).clamp(min=1e-30), _dot(g, g)
        length = g2.sqrt()
        scale = (a2 * b2).rsqrt()
        cosine = _dot(a, b) * scale
        sine = _dot(_cross(b, a), g) * scale / length
        energy = c["torsion_constant"] + c["torsion_cos"][0].sum()
        slope = torch.zeros_like(cosine)
        wave_c, wave_s = cosine, sine
        for n in range(1, len(c["torsion_cos"])):
            amplitude_c, amplitude_s = c["torsion_cos"][n][:, None], c["torsion_sin"][n][:, None]
            energy = energy + (amplitude_c * wave_c + amplitude_s * wave_s).sum(0)
            slope = slope + n * (amplitude_s * wave_c - amplitude_c * wave_s)
            wave_c, wave_s = wave_c * cosine - wave_s * sine, wave_s * cosine + wave_c * sine
        at_i = (-slope * length / a2) * a
        at_l = (slope * length / b2) * b
        middle = (slope / length) * ((_dot(f, g) / a2) * a - (_dot(h, g) / b2) * b)
        return energy, [at_i, at_l, middle]

    def _born(self, r2: torch.Tensor, r: torch.Tensor, c: Terms) -> tuple[torch.Tensor, torch.Tensor]:
        """Solvation energy ``[batch]`` and its derivative by the pair distances over r ``[pairs, batch]``."""
        born = self.tables.born
        assert born is not None
        two_r = torch.cat([r, r])
        offset, scaled = c["pair_or"][:, None], c["pair_sr"][:, None]
        outer = two_r + scaled
        gap = (two_r - scaled).abs()
        lower = torch.maximum(gap, offset)
        inv_l, inv_u, inv_r = 1.0 / lower, 1.0 / outer, 1.0 / two_r
        l2, u2 = inv_l * inv_l, inv_u * inv_u
        log = torch.log(lower * inv_u) * inv_r
        ratio = scaled * scaled * inv_r
        integral = 0.5 * (inv_l - inv_u + 0.25 * (two_r - ratio) * (u2 - l2) + 0.5 * log)
        slope = 0.5 * (0.25 * (1.0 + ratio * inv_r) * (u2 - l2) - 0.5 * log * inv_r)
        engulfed = (scaled - two_r) > offset
        if born.engulfing:
            integral = integral + torch.where(engulfed, 1.0 / offset - inv_l, 0.0)
        else:
            slope = slope + torch.where(engulfed, l2, 0.0)
        reaches = outer >= offset
        integral = torch.where(reaches, integral, 0.0)
        slope = torch.where(reaches, slope, 0.0)
        alpha, beta, gamma = born.tanh_coefficients
        psi = (c["ordered_incidence"] @ integral) * c["born_or"][:, None]
        tanh = torch.tanh(psi * (alpha - psi * (beta - gamma * psi)))
        inv_radius = 1.0 / c["born_radius"][:, None]
        inv_b = 1.0 / c["born_or"][:, None] - tanh * inv_radius
        b = 1.0 / inv_b
        radius_slope = (
            b
            * b
            * (1.0 - tanh * tanh)
            * inv_radius
            * (alpha - psi * (2 * beta - 3 * gamma * psi))
            * c["born_or"][:, None]
        )
        surface = c["born_ace"][:, None] * inv_b**6
        own = c["born_self"][:, None] * inv_b
        by_b = own * inv_b - 6.0 * surface * inv_b
        bi, bj = b.index_select(0, c["first"]), b.index_select(0, c["second"])
        product = bi * bj
        quarter = 0.25 * r2 / product
        decay = torch.exp(-quarter)
        inv_f = (r2 + product * decay).rsqrt()
        pair = c["born_pair"][:, None] * inv_f
        energy = (surface - own).sum(0) - pair.sum(0)
        half = 0.5 * pair * inv_f * inv_f
        over_r = 2.0 * half * (1.0 - 0.25 * decay)
        by_product = half * decay * (1.0 + quarter)
        pairs = len(r)
        incidence = c["ordered_incidence"]
        by_b = by_b + incidence[:, :pairs] @ (by_product * bj) + incidence[:, pairs:] @ (by_product * bi)
        by_integral = by_b * radius_slope
        chain = slope[:pairs] * by_integral.index_select(0, c["first"])
        chain = chain + slope[pairs:] * by_integral.index_select(0, c["second"])
        return energy, over_r + chain * inv_r[:pairs]

    def _kernel(self, x: torch.Tensor, c: Terms) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies ``[batch]`` and gradients ``[3, atoms, batch]`` of ``x [3, atoms, batch]``."""
        terms, gradient = self._terms(x, c)
        return sum(terms[1:], start=terms[0]), gradient

    def _terms(self, x: torch.Tensor, c: Terms) -> tuple[list[torch.Tensor], torch.Tensor]:
        d = x.index_select(1, c["first"]) - x.index_select(1, c["second"])
        r2 = _dot(d, d)
        inv_r2 = 1.0 / r2
        inv_r = inv_r2.sqrt()
        r = r2 * inv_r
        inv_r6 = inv_r2 * inv_r2 * inv_r2
        repulsion, attraction = c["c12"][:, None] * inv_r6 * inv_r6, c["c6"][:, None] * inv_r6
        coulomb = c["coulomb"][:, None] * inv_r
        energies = [(repulsion - attraction + coulomb).sum(0)]
        over_r = (6.0 * attraction - 12.0 * repulsion - coulomb) * inv_r2
        stretch = r - c["bond_length"][:, None]
        tension = c["bond_k"][:, None] * stretch
        energies.append((0.5 * tension * stretch).sum(0))
        over_r = over_r + tension * inv_r
        if self.tables.born is not None:
            energy, born_over_r = self._born(r2, r, c)
            energies.append(energy)
            over_r = over_r + born_over_r
        vectors = [over_r * d]
        energy, at_i, at_k = self._angles(x, c)
        energies.append(energy)
        torsion_energy, torsion_vectors = self._torsions(x, c)
        energies.append(torsion_energy.expand_as(energy))
        vectors += [at_i, at_k, *torsion_vectors]
        return energies, torch.matmul(c["incidence"], torch.cat(vectors, dim=1))

    # ---- public ---------------------------------------------------------------------------------

    def energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reduced energies ``[batch]`` and gradients ``[batch, atoms, 3]`` in 1/nm, in the dtype of `x`.

        Parameters
        ----------
        x
            Configurations ``[batch, atoms, 3]`` in nm.
        """
        c = self._get(x.dtype, x.device)
        with torch.no_grad():
            inner = x.detach().permute(2, 1, 0).contiguous()
            batch = inner.shape[2]
            chunk = COMPILED_CHUNK if self._compiled is not None else EAGER_CHUNK
            if x.device.type != "cpu":
                chunk = max(batch, 1) if self._compiled is None else 32 * COMPILED_CHUNK
            energies, gradients = [], []
            for start in range(0, batch, chunk):
                part = inner[:, :, start : start + chunk]
                size = part.shape[2]
                if self._compiled is not None:
                    if size < chunk:  # one shape for all: nothing is compiled twice
                        part = torch.cat([part, part[:, :, :1].expand(-1, -1, chunk - size)], dim=2)
                    energy, gradient = self._compiled(part.contiguous(), c)
                else:
                    energy, gradient = self._kernel(part.contiguous(), c)
                energies.append(energy[:size])
                gradients.append(gradient[:, :, :size])
            if not energies:
                return x.new_zeros(0), torch.zeros_like(x)
            return torch.cat(energies), torch.cat(gradients, dim=2).permute(2, 1, 0).contiguous()

    def energy_terms(self, x: torch.Tensor) -> Terms:
        """Energies by term in kT, each ``[batch]``: nonbonded, bonds, born, angles, torsions."""
        names = ["nonbonded", "bonds", "angles", "torsions"]
        if self.tables.born is not None:
            names.insert(2, "born")
        with torch.no_grad():
            energies, _ = self._terms(x.permute(2, 1, 0).contiguous(), self._get(x.dtype, x.device))
        return dict(zip(names, energies, strict=True))

    def compile(self) -> None:
        """Compile the kernel (tens of seconds at first use); without a C++ compiler it stays eager."""
        if self._compiled is None:
            if not any(shutil.which(name) for name in ("g++", "c++", "clang++")):
                logging.getLogger(__name__).warning("no C++ compiler: the force field stays eager")
                return
            self._compiled = torch.compile(self._kernel, dynamic=False, fullgraph=True)


INDICES = frozenset(
    ("first", "second", "angle_i", "angle_j", "angle_k") + ("torsion_i", "torsion_j", "torsion_k", "torsion_l")
)
