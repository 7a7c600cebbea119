"""Weights of samples of all wells together: those of the mixture of their flows.

With wells k drawn from c_k = q(k|s), a sample y of the flow of well k may have come from another one. Its weight

    w = exp(-E(s, y)) t_k(y) / sum_j t_j(y) c_j q(y|s, j),        t_j(y) = min(1, r_j(y) / T),

has the mean ``exp(-A(s))`` whatever the flows are (the balance heuristic of Veach and Guibas 1995, with tapers t_j).
Where wells meet, it is far from large if any of their flows generates such samples. Where only well k has a membership,
it is ``exp(-E) / (c_k q(y|s, k))``, and no other flow is computed. The tapers end at zero with the memberships r_j
(`cgbench_methods.cgflow.harmonic.atlas.wells`), so w is continuous.

The mean does not depend on c, so slopes of w are taken at fixed c.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cgbench_methods.cgflow.harmonic.atlas.wells import Features, Wells
from cgbench_methods.cgflow.harmonic.shares import WellShares
from cgbench_methods.lib.flows.build import ConditionalFlow, fixed_parameters

__all__ = ["Mixture"]

TAPER = 0.05  # memberships above this count in full


@dataclass(frozen=True)
class Mixture:
    """The flows of all wells, with their shares.

    Attributes
    ----------
    flow
        The flow of all wells.
    features
        Its context as a function of the points.
    wells, shares
        The wells, and the shares of samples in them.
    """

    flow: ConditionalFlow
    features: Features
    wells: Wells
    shares: WellShares

    def log_density(
        self,
        s: torch.Tensor,
        y: torch.Tensor,
        log_shares: torch.Tensor,
        own: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return ``ln sum_j t_j(y) c_j q(y|s, j)`` ``[batch]``; differentiable in s and y.

        Parameters
        ----------
        s, y, log_shares
            ``[batch, cvs]``, ``[batch, fine]``, and ``ln c`` ``[batch, wells]``.
        own
            A well and the known ``ln q(y|s, j)`` for each row, which is not computed again, each ``[batch]``.
        """
        tapers = self._log_tapers(y)
        wanted = tapers.detach().isfinite()
        log_q = torch.full_like(tapers, -torch.inf)
        if own is not None:
            rows = torch.arange(len(y), device=y.device)
            wanted[rows, own[0]] = False
            log_q = log_q.index_put((rows, own[0]), own[1])
        row, well = wanted.nonzero(as_tuple=True)
        points = torch.cat([s[row], well[:, None].to(s)], dim=1)
        found = self.flow.log_prob(self.wells.around(y[row], well), self.features(points))
        return torch.logsumexp(tapers + log_shares.to(s) + log_q.index_put((row, well), found), dim=1)

    def _log_tapers(self, y: torch.Tensor) -> torch.Tensor:
        """Return ``ln t_j(y)`` ``[batch, wells]``."""
        return (self.wells.log_memberships(y) - torch.tensor(TAPER).log()).clamp(max=0.0)

    def weights(
        self, points: torch.Tensor, y: torch.Tensor, log_weights: torch.Tensor, slopes: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return log-weights of the mixture, and their slopes.

        Parameters
        ----------
        points, y
            Points of the samples ``[batch, cvs + 1]``, and the samples ``[batch, fine]``.
        log_weights, slopes
            Logarithms of ``exp(-E_k(s, y)) / q(y|s, k)`` for the well k of each sample ``[batch]``, with the softened
            membership in E_k; and their derivatives in the points ``[batch, cvs + 1]``.
        """
        well = points[:, -1].long()
        with torch.no_grad():
            own = self.wells.log_memberships(y).gather(1, well[:, None]).squeeze(1)
            log_shares = self.shares.log_shares(points[:, :-1].cpu()).to(points)
        corrected = log_weights - log_shares.gather(1, well[:, None]).squeeze(1)
        corrected = torch.where(own.isneginf(), -torch.inf, corrected)
        rows = (own.isfinite() & (own < 0) & log_weights.isfinite()).nonzero().squeeze(1)
        if len(rows) == 0:
            return corrected, slopes
        change, along = self._change(points[rows], y[rows], log_shares[rows], slopes is not None)
        corrected = corrected.index_put((rows,), log_weights[rows] + change)
        if slopes is not None and along is not None:
            slopes = slopes.index_put((rows,), slopes[rows] + along)
        return corrected, slopes

    def _change(
        self, points: torch.Tensor, y: torch.Tensor, log_shares: torch.Tensor, sloped: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what is added to the log-weights of samples between wells, and its derivatives at fixed noise."""
        well = points[:, -1].long()
        with fixed_parameters(self.flow), torch.set_grad_enabled(sloped):
            leaf = points.detach().requires_grad_(sloped)
            if sloped:
                with torch.no_grad():
                    noise = self.flow.to_noise(y, self.features(points))
                y, log_q = self.flow.from_noise(noise, self.features(leaf))
            else:
                log_q = self.flow.log_prob(y, self.features(points))
            change = (
                log_q
                + self._log_tapers(y).gather(1, well[:, None]).squeeze(1)
                - self.wells.log_membership(y, well)
                - self.log_density(leaf[:, :-1], y, log_shares, (well, log_q))
            )
            along = torch.autograd.grad(change.sum(), leaf)[0] if sloped else None
        return change.detach(), along
