"""The batched force field: energies and analytic gradients of many configurations at once.

On CPUs the C++ kernel of `native_forcefield` is used. The torch kernel here serves other devices and machines without
a C++ compiler, and is the reference in the tests of the C++ kernel. Its arrays have the batch as the last dimension,
``[terms, batch]``, so every operation runs over one long vector. Term gradients are summed into atom gradients by a
product with a constant incidence matrix, which is fast and, unlike atomic additions, bit-reproducible.
"""

from __future__ import annotations

import logging
from typing import Any

import openmm
import torch

from cgbench.native import compiler
from cgbench_systems.molecular.kernel_arrays import INDICES, to_arrays
from cgbench_systems.molecular.native_forcefield import NativeForceField
from cgbench_systems.molecular.parameters import ForceFieldParameters, read_parameters

__all__ = ["GAS_CONSTANT", "TorchForceField"]

GAS_CONSTANT = 0.00831446261815324  # kJ/(mol K)
EAGER_CHUNK = 256
COMPILED_CHUNK = 512

Terms = dict[str, torch.Tensor]


def _cross(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the cross product along the first axis."""
    return torch.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the dot product along the first axis."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


class TorchForceField:
    """Batched energies and gradients of a molecule without cutoff, with or without OBC implicit solvent.

    Parameters
    ----------
    parameters
        Parameters read from an `openmm.System` (`read_parameters`).
    temperature
        In kelvin; energies are returned in kT.

    Notes
    -----
    Generalized Born: Onufriev, Bashford, Case, Proteins 55, 383 (2004); torsion gradients: Blondel and
    Karplus, J. Comput. Chem. 17, 1132 (1996).
    """

    def __init__(self, parameters: ForceFieldParameters, temperature: float) -> None:
        self.parameters = parameters
        self.beta = 1.0 / (GAS_CONSTANT * temperature)
        self._constants: dict[tuple[torch.dtype, str], Terms] = {}
        self._master = to_arrays(parameters, self.beta)
        self._native = NativeForceField(parameters, self._master)
        self._to_compile = False
        self._compiled: Any = None

    @classmethod
    def from_openmm(cls, system: openmm.System, temperature: float) -> TorchForceField:
        """Return the batched force field of an `openmm.System`.

        Raises
        ------
        UserError
            If a force or a feature is not supported; the message names it.
        """
        return cls(read_parameters(system), temperature)

    def _constants_on(self, dtype: torch.dtype, device: torch.device) -> Terms:
        """Return the constant arrays in a dtype and on a device, cached."""
        key = (dtype, str(device))
        if key not in self._constants:
            self._constants[key] = {
                name: value.to(device) if name in INDICES else value.to(device, dtype)
                for name, value in self._master.items()
            }
        return self._constants[key]

    # ---- the terms ------------------------------------------------------------------------------

    def _angles(self, x: torch.Tensor, c: Terms) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the energy ``[batch]`` and the gradients of the end atoms, ``[3, angles, batch]`` each."""
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
        """Return the energy ``[batch]`` and three independent gradient vectors, ``[3, torsions, batch]`` each."""
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
        """Return the solvation energy ``[batch]`` and ``(dE/dr) / r`` of every pair ``[pairs, batch]``."""
        born = self.parameters.born
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
        """Return energies ``[batch]`` and gradients ``[3, atoms, batch]`` of ``x [3, atoms, batch]``."""
        terms, gradient = self._terms(x, c)
        return sum(terms[1:], start=terms[0]), gradient

    def _terms(self, x: torch.Tensor, c: Terms) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the energies of each term, ``[batch]`` each, and the total gradient ``[3, atoms, batch]``."""
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
        if self.parameters.born is not None:
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
        """Return reduced energies ``[batch]`` and gradients ``[batch, atoms, 3]`` in 1/nm, in the dtype of `x`.

        Parameters
        ----------
        x
            Configurations ``[batch, atoms, 3]`` in nm.
        """
        if x.shape[1:] != (self.parameters.atoms, 3):
            raise ValueError(f"configurations must be [batch, {self.parameters.atoms}, 3], not {list(x.shape)}")
        if self._native.serves(x):
            return self._native.energy_and_gradient(x)
        with torch.no_grad():
            return self._in_torch(x.detach())

    def _in_torch(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._to_compile and self._compiled is None:
            self._compiled = torch.compile(self._kernel, dynamic=False, fullgraph=True)
        c = self._constants_on(x.dtype, x.device)
        inner = x.permute(2, 1, 0).contiguous()
        batch = inner.shape[2]
        chunk = COMPILED_CHUNK if self._compiled is not None else EAGER_CHUNK
        if x.device.type != "cpu":
            chunk = max(batch, 1) if self._compiled is None else 32 * COMPILED_CHUNK
        energies, gradients = [], []
        for start in range(0, batch, chunk):
            part = inner[:, :, start : start + chunk]
            size = part.shape[2]
            if self._compiled is not None:
                if size < chunk:  # padded to one shape, so that the kernel is compiled only once
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
        """Return the energies by term in kT, ``[batch]`` each: nonbonded, bonds, born, angles, torsions."""
        names = ["nonbonded", "bonds", "angles", "torsions"]
        if self.parameters.born is not None:
            names.insert(2, "born")
        with torch.no_grad():
            energies, _ = self._terms(x.permute(2, 1, 0).contiguous(), self._constants_on(x.dtype, x.device))
        return dict(zip(names, energies, strict=True))

    def compile(self) -> None:
        """Have the torch kernel compiled on first use (tens of seconds); the C++ kernel is not affected."""
        if compiler() is None:
            logging.getLogger(__name__).warning("no C++ compiler: the force field is not compiled and stays slower")
            return
        self._to_compile = True
