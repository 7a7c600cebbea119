"""The C++ kernel of the batched force field (forcefield.cpp), for float32 and float64 on CPUs."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import torch

from cgbench.native import in_parallel, tensors
from cgbench_systems.molecular.parameters import ForceFieldParameters

__all__ = ["NativeForceField"]

SOURCE = Path(__file__).with_name("forcefield.cpp")
VECTOR_BYTES = 64  # of the widest vector register; its configurations are never split between threads
VECTORS_PER_THREAD = 4  # fewer do not repay a thread
SCALARS = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}


def _layout(scalar: type[ctypes._SimpleCData[float]]) -> type[ctypes.Structure]:
    """Return the ctypes mirror of the kernel's struct ``Tables``."""

    class Tables(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_int64) for name in ("atoms", "angles", "torsions", "waves", "born", "engulfing")),
            *((name, ctypes.c_void_p) for name in ("pair", "sphere")),
            *((name, ctypes.c_void_p) for name in ("angle_atoms", "bend", "torsion_atoms", "wave")),
            ("torsion_constant", scalar),
            ("tanh", scalar * 3),
        )

    return Tables


class NativeForceField:
    """Energies and gradients equal to those of the torch kernel up to rounding.

    Parameters
    ----------
    parameters
        Parameters read from an `openmm.System` (`read_parameters`).
    constants
        The same as arrays (`kernel_arrays.to_arrays`).
    """

    def __init__(self, parameters: ForceFieldParameters, constants: dict[str, torch.Tensor]) -> None:
        c = {name: value.numpy() for name, value in constants.items()}
        none = np.zeros_like(c["c6"])
        pair = [c["c12"], c["c6"], c["coulomb"], c["bond_length"], c["bond_k"], c.get("born_pair", none)]
        waves = [c["torsion_cos"][1:].T, c["torsion_sin"][1:].T]
        self._arrays = {"pair": np.stack(pair, axis=1), "wave": np.stack(waves, axis=2)}
        self._arrays["bend"] = np.stack([c["angle_theta"], c["angle_k_theta"]], axis=1)
        self._indices = {
            "angle_atoms": np.stack([c[f"angle_{k}"] for k in "ijk"], axis=1),
            "torsion_atoms": np.stack([c[f"torsion_{k}"] for k in "ijkl"], axis=1),
        }
        self._numbers = {
            "atoms": parameters.atoms,
            "angles": len(c["angle_theta"]),
            "torsions": len(c["torsion_i"]),
            "waves": len(c["torsion_cos"]) - 1,
            "torsion_constant": float(c["torsion_constant"][0] + c["torsion_cos"][0].sum()),
        }
        self._tanh = (0.0, 0.0, 0.0)
        if parameters.born is not None:
            names = ("born_or", "born_sr", "born_radius", "born_self", "born_ace")
            offset, scaled, radius, own, surface = (c[name] for name in names)
            self._arrays["sphere"] = np.stack([offset, 1 / offset, scaled, 1 / radius, own, surface], axis=1)
            self._numbers |= {"born": 1, "engulfing": int(parameters.born.engulfing)}
            self._tanh = parameters.born.tanh_coefficients
        self._tables: dict[torch.dtype, tuple[ctypes.Structure, list[np.ndarray]]] = {}

    @staticmethod
    def serves(x: torch.Tensor) -> bool:
        """Return whether this machine has a kernel for tensors like `x`."""
        return tensors.serves(SOURCE, x)

    def energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return reduced energies ``[batch]`` and gradients ``[batch, atoms, 3]`` of ``x [batch, atoms, 3]``."""
        x = x.detach().contiguous()
        energy, gradient = x.new_empty(len(x)), torch.empty_like(x)
        kernel = tensors.function(SOURCE, "energy_and_gradient", x.dtype)
        tables = ctypes.byref(self._tables_in(x.dtype)[0])
        pointers = [tensors.address(tensor) for tensor in (x, energy, gradient)]
        lanes = VECTOR_BYTES // x.element_size()
        vectors = -(-len(x) // lanes)

        def work(first: int, last: int) -> None:
            ends = (ctypes.c_int64(first * lanes), ctypes.c_int64(min(last * lanes, len(x))))
            if kernel(tables, *pointers, *ends):
                raise MemoryError("not enough memory for the pair arrays of the force field")

        in_parallel(work, vectors, min(torch.get_num_threads(), vectors // VECTORS_PER_THREAD))
        return energy, gradient

    def _tables_in(self, dtype: torch.dtype) -> tuple[ctypes.Structure, list[np.ndarray]]:
        """Return the kernel's tables, and the arrays that they point to, which must stay alive as long."""
        if dtype not in self._tables:
            scalar = SCALARS[dtype]
            arrays = {key: np.ascontiguousarray(value, dtype=scalar) for key, value in self._arrays.items()}
            arrays |= {key: np.ascontiguousarray(value) for key, value in self._indices.items()}
            pointers = {key: value.ctypes.data for key, value in arrays.items()}
            tables = _layout(scalar)(**self._numbers, **pointers, tanh=(scalar * 3)(*self._tanh))
            self._tables[dtype] = tables, list(arrays.values())
        return self._tables[dtype]
