"""The Müller-Brown potential with one collective variable, and its exact PMF by quadrature."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Basin, Check, System

__all__ = ["MullerBrown", "exact_probability", "potential_grid"]

BETA = 0.1
AMPLITUDE = (-200.0, -100.0, -170.0, 15.0)
A = (-1.0, -1.0, -6.5, 0.7)
B = (0.0, 0.0, 11.0, 0.6)
C = (-10.0, -10.0, -6.5, 0.7)
X0 = (1.0, 0.0, -0.5, -1.0)
Y0 = (0.0, 0.5, 1.5, 1.0)
SCALE = 0.1  # unit of y' = x + y, about one thermal width in the basins
# maxima of the exact PMF between its three minima, along s = x - y; the tests check them
BARRIERS = (-1.4036, -0.1010)
# the deepest minimum, in the upper left
MINIMUM = (-0.5582236346330243, 1.4417258418046686)


def potential(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the Müller-Brown potential (Müller and Brown, Theor. Chim. Acta 53, 75, 1979) in its own unit."""
    total = np.zeros(np.broadcast(x, y).shape)
    for amplitude, a, b, c, x0, y0 in zip(AMPLITUDE, A, B, C, X0, Y0, strict=True):
        dx, dy = x - x0, y - y0
        total = total + amplitude * np.exp(a * dx * dx + b * dx * dy + c * dy * dy)
    return total


def potential_grid(points: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``x [points]``, ``y [points]`` and the potential ``[points, points]`` for plotting."""
    x, y = np.linspace(-1.5, 1.2, points), np.linspace(-0.5, 2.2, points)
    return x, y, potential(x[:, None], y[None, :])


def exact_probability(cvs: CollectiveVariables, nodes: int = 16, fine: int = 4001) -> np.ndarray:
    """Return the exact probability of each bin by quadrature, to better than 1e-10.

    Each bin of `s` is integrated by Gauss-Legendre quadrature. Over ``y' = x + y`` the trapezoidal rule on [-6, 6]
    converges exponentially, since the Boltzmann factor vanishes beyond.
    """
    abscissae, weights = np.polynomial.legendre.leggauss(nodes)
    edges = cvs.edges(0)
    half = 0.5 * np.diff(edges)
    s = 0.5 * (edges[:-1] + edges[1:])[:, None] + half[:, None] * abscissae
    other = np.linspace(-6.0, 6.0, fine)
    flat = s.reshape(-1, 1)
    with np.errstate(over="ignore", under="ignore"):
        density = np.exp(-BETA * potential(0.5 * (flat + other), 0.5 * (other - flat))).sum(axis=1)
    per_bin = (density.reshape(s.shape) * weights).sum(axis=1) * half
    return np.asarray(per_bin / per_bin.sum())


@cache
def _exact_probability(cvs: CollectiveVariables) -> np.ndarray:
    """Return the exact probabilities, computed (half a second) once for all instances of the system."""
    probability = exact_probability(cvs)
    probability.setflags(write=False)
    return probability


class _Rotated(Coordinates):
    """The coordinates ``s = x - y`` and ``y' = (x + y) / scale``."""

    names = ("x + y",)

    def __init__(self) -> None:
        self.periodic = torch.tensor([False])
        self.lower = torch.tensor([-math.inf], dtype=torch.float64)
        self.upper = torch.tensor([math.inf], dtype=torch.float64)
        self._log_det = math.log(SCALE / 2.0)

    def to_cartesian(self, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``x [batch, 2]`` and ``ln|det dx/d(s, y)|``."""
        total = SCALE * y
        x = torch.cat([0.5 * (total + s), 0.5 * (total - s)], dim=1)
        return x, x.new_full((len(x),), self._log_det)

    def to_internal(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ``s [batch, 1]``, ``y [batch, 1]`` and ``ln|det d(s, y)/dx|``."""
        s, y = x[:, :1] - x[:, 1:], (x[:, :1] + x[:, 1:]) / SCALE
        return s, y, x.new_full((len(x),), -self._log_det)

    def in_state_space(self, x: torch.Tensor) -> torch.Tensor:
        """Return whether ``s`` is in the domain of the PMF."""
        s = x[:, 0] - x[:, 1]
        return (s >= -2.5) & (s <= 1.1)


def _interval(low: float, high: float) -> Basin:
    def contains(columns: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray((columns[0] >= low) & (columns[0] < high))

    names = {-math.inf: "reactant (upper left)", BARRIERS[0]: "intermediate", BARRIERS[1]: "product (lower right)"}
    return Basin(names[low], contains)


class MullerBrown(System):
    """The Müller-Brown potential in two dimensions with the CV s = x - y and an exact reference."""

    name = "muller_brown"
    version = "1"
    engines = ("torch",)

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.temperature = 1.0 / BETA
        self.traits = frozenset({"gradient", "coordinates"})
        self.cvs = CollectiveVariables(names=("s",), lower=(-2.5,), upper=(1.1,), periodic=(False,), unit="")
        ends = (-math.inf, *BARRIERS, math.inf)
        self.basins = tuple(_interval(low, high) for low, high in zip(ends[:-1], ends[1:], strict=True))
        self.coordinates = _Rotated()

    def initial_configuration(self) -> torch.Tensor:
        """Return the deepest minimum, in the upper left, ``[2]``."""
        return torch.tensor(MINIMUM, dtype=torch.float64, device=self.device)

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return reduced energies ``[batch]`` and gradients ``[batch, 2]``."""
        x = x.detach()
        energy = torch.zeros_like(x[:, 0])
        gradient = torch.zeros_like(x)
        for amplitude, a, b, c, x0, y0 in zip(AMPLITUDE, A, B, C, X0, Y0, strict=True):
            dx, dy = x[:, 0] - x0, x[:, 1] - y0
            term = BETA * amplitude * torch.exp(a * dx * dx + b * dx * dy + c * dy * dy)
            energy = energy + term
            slope = torch.stack([2 * a * dx + b * dy, b * dx + 2 * c * dy], dim=1)
            gradient = gradient + term[:, None] * slope
        return energy, gradient

    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``s = x - y`` ``[batch, 1]``."""
        return x[:, :1] - x[:, 1:]

    @property
    def _exact(self) -> np.ndarray:
        return _exact_probability(self.cvs)

    def reference(self) -> Reference:
        """Return the exact PMF."""
        return Reference(
            pmf=PMF(self.cvs, self._exact),
            standard_error=None,
            noise_floor=0.0,
            source="exact, by quadrature",
            sha256=hashlib.sha256(np.round(self._exact, 14).tobytes()).hexdigest(),
        )

    def reference_samples(self, count: int = 2000) -> torch.Tensor:
        """Draw independent configurations ``[count, 2]`` by rejection."""
        random = np.random.default_rng(0)
        lowest = potential(*np.array(MINIMUM))
        kept: list[np.ndarray] = []
        while sum(map(len, kept)) < count:
            x = random.uniform((-2.0, -1.0), (2.0, 3.0), size=(100_000, 2))
            accepted = random.random(len(x)) < np.exp(-BETA * (potential(x[:, 0], x[:, 1]) - lowest))
            s = x[:, 0] - x[:, 1]
            kept.append(x[accepted & (s >= self.cvs.lower[0]) & (s <= self.cvs.upper[0])])
        return torch.from_numpy(np.concatenate(kept)[:count])

    def verify_reference(self, reference: Reference) -> list[Check]:
        """Compare every tenth bin with scipy's adaptive quadrature."""
        from scipy.integrate import quad

        def density(s: float) -> float:
            def slice_(total: float) -> float:
                energy = potential(np.asarray(0.5 * (total + s)), np.asarray(0.5 * (total - s)))
                return float(np.exp(-energy / self.temperature))

            return float(quad(slice_, -4.0, 4.0, points=(-1.0, 0.0, 1.0, 2.0), limit=200, epsabs=0.0, epsrel=1e-11)[0])

        edges = self.cvs.edges(0)
        whole = sum(quad(density, a, b, epsrel=1e-10)[0] for a, b in zip(edges[:-1:4], edges[4::4], strict=True))
        bins = range(0, len(edges) - 1, 10)
        again = np.array([quad(density, edges[i], edges[i + 1], epsrel=1e-10)[0] for i in bins]) / whole
        worst = float(np.abs(again - reference.pmf.probability[::10]).max())
        return [Check("adaptive quadrature", worst < 1e-10, f"largest difference of a probability {worst:.1e}")]

    def self_check(self) -> list[Check]:
        """Compare the gradient with finite differences, and check the initial configuration."""
        x = torch.tensor([[0.3, 0.4], [-0.8, 1.2], [0.6, 0.0]], dtype=torch.float64)
        _, gradient = self.reduced_energy_and_gradient(x)
        worst = 0.0
        for axis in range(2):
            shift = torch.zeros(2, dtype=torch.float64)
            shift[axis] = 1e-5
            up, down = (self.reduced_energy_and_gradient(x + sign * shift)[0] for sign in (1, -1))
            worst = max(worst, float((gradient[:, axis] - (up - down) / 2e-5).abs().max()))
        force = float(self.reduced_energy_and_gradient(self.initial_configuration()[None])[1].abs().max())
        return [
            Check("gradient against finite differences", worst < 1e-6, f"largest difference {worst:.1e}"),
            Check("initial configuration is a minimum", force < 1e-9, f"largest gradient {force:.1e}"),
        ]
