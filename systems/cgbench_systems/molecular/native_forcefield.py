"""The batched force field's kernel for processors, in C++ (forcefield.cpp), on float32 and float64."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import torch

from cgbench.native import in_parallel, tensors
from cgbench_systems.molecular.tables import ForceFieldTables

__all__ = ["NativeForceField"]

SOURCE = Path(__file__).with_name("forcefield.cpp")
BLOCK = 64  # bytes: configurations whose coordinates fill the widest vector are never divided
PART = 4  # blocks that are worth a thread
SCALARS = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}


def _layout(scalar: type[ctypes._SimpleCData[float]]) -> type[ctypes.Structure]:
    """The struct ``Tables`` of the kernel."""

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
    """Energies and gradients like those of `TorchForceField`, to rounding.

    Parameters
    ----------
    tables
        Parameters as read from an `openmm.System`.
    constants
        What `constants.prepare` makes of them.
    """

    def __init__(self, tables: ForceFieldTables, constants: dict[str, torch.Tensor]) -> None:
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
            "atoms": tables.atoms,
            "angles": len(c["angle_theta"]),
            "torsions": len(c["torsion_i"]),
            "waves": len(c["torsion_cos"]) - 1,
            "torsion_constant": float(c["torsion_constant"][0] + c["torsion_cos"][0].sum()),
        }
        self._tanh = (0.0, 0.0, 0.0)
        if tables.born is not None:
            names = ("born_or", "born_sr", "born_radius", "born_self", "born_ace")
            offset, scaled, radius, own, surface = (c[name] for name in names)
            self._arrays["sphere"] = np.stack([offset, 1 / offset, scaled, 1 / radius, own, surface], axis=1)
            self._numbers |= {"born": 1, "engulfing": int(tables.born.engulfing)}
            self._tanh = tables.born.tanh_coefficients
        self._tables: dict[torch.dtype, tuple[ctypes.Structure, list[np.ndarray]]] = {}

    @staticmethod
    def serves(x: torch.Tensor) -> bool:
        """Whether there is a kernel for tensors like this one, on this machine."""
        return tensors.serves(SOURCE, x)

    def energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reduced energies ``[batch]`` and gradients ``[batch, atoms, 3]`` of ``x [batch, atoms, 3]``."""
        x = x.detach().contiguous()
        energy, gradient = x.new_empty(len(x)), torch.empty_like(x)
        kernel = tensors.function(SOURCE, "energy_and_gradient", x.dtype)
        tables = ctypes.byref(self._in(x.dtype)[0])
        pointers = [tensors.address(tensor) for tensor in (x, energy, gradient)]
        lanes = BLOCK // x.element_size()
        blocks = -(-len(x) // lanes)

        def work(first: int, last: int) -> None:
            ends = (ctypes.c_int64(first * lanes), ctypes.c_int64(min(last * lanes, len(x))))
            if kernel(tables, *pointers, *ends):
                raise MemoryError("the force field has no memory for the pairs of one block")

        in_parallel(work, blocks, min(torch.get_num_threads(), blocks // PART))
        return energy, gradient

    def _in(self, dtype: torch.dtype) -> tuple[ctypes.Structure, list[np.ndarray]]:
        """The kernel's tables, and the arrays that they point to, which must live as long."""
        if dtype not in self._tables:
            scalar = SCALARS[dtype]
            arrays = {key: np.ascontiguousarray(value, dtype=scalar) for key, value in self._arrays.items()}
            arrays |= {key: np.ascontiguousarray(value) for key, value in self._indices.items()}
            pointers = {key: value.ctypes.data for key, value in arrays.items()}
            tables = _layout(scalar)(**self._numbers, **pointers, tanh=(scalar * 3)(*self._tanh))
            self._tables[dtype] = tables, list(arrays.values())
        return self._tables[dtype]
