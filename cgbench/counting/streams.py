"""Named, seeded streams of random numbers. No code draws from a global generator."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

__all__ = ["Streams"]


class Streams:
    """Provides independent random generators by name; the same name always gives the same generator.

    Parameters
    ----------
    seed
        The seed of the run. Streams with different names or seeds are independent.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._torch: dict[str, Generator] = {}

    def _derived(self, name: str) -> int:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1

    def torch(self, name: str, device: str = "cpu") -> Generator:
        """Return the torch generator called `name`; its state is part of `state_dict`."""
        key = f"{name}@{device}"
        if key not in self._torch:
            self._torch[key] = torch.Generator(device=device).manual_seed(self._derived(name))
        return self._torch[key]

    def numpy(self, name: str) -> np.random.Generator:
        """Return a fresh numpy generator seeded by `name` and a draw from the torch stream `name`."""
        words = torch.randint(2**62, (2,), generator=self.torch(name))
        return np.random.default_rng([int(word) for word in words])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the states of all generators created so far."""
        return {key: generator.get_state() for key, generator in self._torch.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore states in place: generators that are already in use continue from them."""
        for key, value in state.items():
            name, device = key.rsplit("@", 1)
            self.torch(name, device).set_state(value)
