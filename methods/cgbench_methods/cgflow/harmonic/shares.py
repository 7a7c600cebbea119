"""Shares of the wells, q(k|s): the probability with which a sample at s is drawn in well k.

They approximate ``p(k|s) = exp(A(s) - A_k(s))``, with A_k the PMF of well k alone. The first approximation are the
harmonic free energies of the wells. The weighted samples correct it by a multinomial logistic regression,

    ln q(k|s) = -A_k^harmonic(s) + sum_j theta_jk phi_j(s) - ln Z(s),

with Fourier functions phi_j and a Gaussian prior on theta. A part of the samples is spread evenly over the wells, which
bounds the weights where the approximation is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.atlas.placement import fit_harmonic
from cgbench_methods.cgflow.harmonic.config import MinimaConfig, WellsConfig
from cgbench_methods.lib.estimators.fourier import FourierBasis
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate

__all__ = ["WellShares"]

HIGHEST = 15.0  # kT; a harmonic free energy of a well above the lowest at the same s is cut at this value


class WellShares:
    """The shares of the wells as functions of s.

    Parameters
    ----------
    cvs
        Collective variables and their grid.
    wells
        Number of wells.
    config
        Settings.

    Attributes
    ----------
    coefficients
        ``theta`` ``[modes, wells]``.
    """

    def __init__(self, cvs: CollectiveVariables, wells: int, config: WellsConfig) -> None:
        self.cvs, self.wells, self.config = cvs, wells, config
        self.basis = FourierBasis(cvs, config.order)
        cells = int(np.prod(cvs.bins))
        self.harmonic = torch.zeros(cells, wells, dtype=torch.float64)
        self.coefficients = torch.zeros(len(self.basis), wells, dtype=torch.float64)
        spectrum = torch.exp(-0.5 * config.length_scale**2 * self.basis.squared_frequency)
        self._precision = (spectrum.sum() / (config.amplitude**2 * spectrum))[:, None]

    def set_harmonic(self, minima: HarmonicMinima, config: MinimaConfig, order: int) -> None:
        """Model the harmonic free energy of each well, from the minima at points ``(s, k)``."""
        lowest = minima.free_energy.min()
        for well in range(self.wells):
            own = minima.s[:, -1] == well
            model = FourierSurrogate(self.cvs, order, config.length_scale, config.amplitude)
            slopes = minima.slope[own, :-1]
            fit_harmonic(model, minima.s[own, :-1], minima.free_energy[own] - lowest, slopes, config)
            self.harmonic[:, well] = model.on_grid()[0]
        self.harmonic -= self.harmonic.min(dim=1, keepdim=True).values
        self.harmonic.clamp_(max=HIGHEST)

    def _log_probability(self, s: torch.Tensor) -> torch.Tensor:
        """Return ``ln q(k|s)`` without the even part, ``[batch, wells]``."""
        cell = self.cvs.bin_index(s, nearest=True)
        return torch.log_softmax(self.basis(s) @ self.coefficients - self.harmonic[cell], dim=1)

    def log_shares(self, s: torch.Tensor) -> torch.Tensor:
        """Return ``ln q(k|s)`` ``[batch, wells]``."""
        even = self.config.even_share
        return ((1 - even) * self._log_probability(s).exp() + even / self.wells).log()

    def draw(self, s: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a well at each s; return points ``(s, k)`` ``[batch, cvs + 1]`` and ``ln q(k|s)`` ``[batch]``."""
        log_shares = self.log_shares(s)
        well = torch.multinomial(log_shares.exp(), 1, generator=generator)
        return torch.cat([s, well.to(s)], dim=1), log_shares.gather(1, well).squeeze(1)

    def fit(self, s: torch.Tensor, well: torch.Tensor, weights: torch.Tensor) -> None:
        """Fit the shares to weighted samples: maximise ``sum_i weights_i ln q(k_i|s_i)`` and the prior.

        Parameters
        ----------
        s, well
            Values of the CVs ``[n, cvs]`` and numbers of the wells ``[n]``.
        weights
            ``w exp(A(s))``, divided by its relative second moment ``[n]``: a sample counts as much as it informs.
        """
        used = weights > 0
        s, well, weights = s[used], well[used], weights[used]
        features = self.basis(s)
        offset = self.harmonic[self.cvs.bin_index(s, nearest=True)]
        own = torch.nn.functional.one_hot(well, self.wells).to(features)

        def loss(flat: Any) -> tuple[float, Any]:
            theta = torch.from_numpy(flat).reshape(self.coefficients.shape)
            log_p = torch.log_softmax(features @ theta - offset, dim=1)
            value = -(weights * (own * log_p).sum(1)).sum() + 0.5 * (self._precision * theta**2).sum()
            gradient = features.T @ (weights[:, None] * (log_p.exp() - own)) + self._precision * theta
            return float(value), gradient.reshape(-1).numpy()

        start = self.coefficients.reshape(-1).numpy()
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100, "gtol": 1e-2})
        if np.isfinite(found.x).all():
            self.coefficients = torch.from_numpy(found.x).reshape(self.coefficients.shape)

    def populations(self, free_energy: torch.Tensor) -> torch.Tensor:
        """Return the population of each well ``[wells]``, for the PMF at the bin centres ``[cells]``."""
        p = torch.softmax(-free_energy, dim=0)
        return p @ self._log_probability(torch.from_numpy(self.cvs.grid())).exp()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that is fitted."""
        return {"harmonic": self.harmonic, "coefficients": self.coefficients}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.harmonic, self.coefficients = state["harmonic"], state["coefficients"]
