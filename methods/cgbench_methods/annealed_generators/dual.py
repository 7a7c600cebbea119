"""The next target of constrained mass transport, from the dual problem on samples of the flow.

Constrained mass transport (von Klitzing et al., arXiv 2510.18460) minimises ``KL(q || p)`` over q under two
constraints,

    KL(q || q_i) <= e_tr,        H(q_i) - H(q) <= e_ent,

with the entropy H. With the multipliers l and h of the constraints, ``m = 1 + l + h`` and the unnormalised density p,
the Lagrangian

    E_q[m ln q - ln p - l ln q_i] - l e_tr + h (H(q_i) - e_ent)

is smallest for ``q ~ q_i^(l/m) p^(1/m)``, whose weights over q_i are ``w = (p / q_i^(1 + h))^(1/m)``. Its smallest
value is the dual function, concave in l and h >= 0,

    g(l, h) = -m ln E_{q_i}[w] - l e_tr + h (H(q_i) - e_ent),

with the derivatives ``KL(q || q_i) - e_tr`` and ``H(q_i) - H(q) - e_ent``. Expectations over q_i are means over
samples.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

__all__ = ["Dual", "NextTarget"]

Array = NDArray[np.float64]
FIRST = (0.0, 1.0, 10.0, 100.0)  # multipliers to start from; the best pair is used


@dataclass(frozen=True)
class NextTarget:
    """A solution of the dual problem.

    Attributes
    ----------
    trust_region, entropy
        The multipliers l and h; zero where a constraint is not active.
    log_weights
        ``ln w`` of the samples, ``[samples]``.
    divergence, entropy_decrease
        ``KL(q || q_i)`` and ``H(q_i) - H(q)`` in nats.
    """

    trust_region: float
    entropy: float
    log_weights: Array
    divergence: float
    entropy_decrease: float

    @property
    def is_the_target(self) -> bool:
        """Whether no constraint is active, so that q is p itself."""
        return self.trust_region == 0.0 and self.entropy == 0.0


class Dual:
    """The dual function on samples of q_i.

    Parameters
    ----------
    log_p
        ``ln p`` of samples of q_i, ``[samples]``, up to a constant; minus infinity is possible.
    log_q
        ``ln q_i`` of the samples, ``[samples]``, normalised.
    trust_region, entropy
        The bounds e_tr and e_ent in nats.

    Raises
    ------
    ValueError
        If no sample has a positive density p.
    """

    def __init__(self, log_p: Array, log_q: Array, trust_region: float, entropy: float) -> None:
        self._usable = np.isfinite(log_p) & np.isfinite(log_q)
        if not self._usable.any():
            raise ValueError("no sample of the flow has a positive density under the target")
        self._samples = len(log_p)
        self._log_p, self._log_q = log_p[self._usable], log_q[self._usable]
        self._bounds = trust_region, entropy
        self._log_p = self._log_p - self._log_p.max()  # a constant, which leaves the dual problem well scaled
        self._entropy = -float(log_q[np.isfinite(log_q)].mean())

    def _log_weights(self, trust: float, entropy: float) -> Array:
        return np.asarray((self._log_p - (1.0 + entropy) * self._log_q) / (1.0 + trust + entropy))

    def moments(self, trust: float, entropy: float) -> tuple[float, float, float]:
        """Return ``ln E[w]``, ``KL(q || q_i)`` and ``H(q_i) - H(q)`` at given multipliers l and h."""
        log_w = self._log_weights(trust, entropy)
        total = float(logsumexp(log_w))
        log_z = total - math.log(self._samples)
        share = np.exp(log_w - total)
        divergence = float(share @ log_w) - log_z
        return log_z, divergence, self._entropy + float(share @ self._log_q) + divergence

    def value_and_slopes(self, multipliers: Array) -> tuple[float, Array]:
        """Return the dual function and its derivatives in l and h."""
        trust, entropy = (float(each) for each in multipliers)
        log_z, divergence, decrease = self.moments(trust, entropy)
        value = -(1.0 + trust + entropy) * log_z - trust * self._bounds[0] + entropy * (self._entropy - self._bounds[1])
        return value, np.array([divergence - self._bounds[0], decrease - self._bounds[1]])

    def solve(self) -> NextTarget:
        """Maximise the dual function over multipliers that are not negative."""

        def loss(multipliers: Array) -> tuple[float, Array]:
            value, slopes = self.value_and_slopes(multipliers)
            return -value, -slopes

        starts = [np.array(pair) for pair in itertools.product(FIRST, FIRST)]
        best = min(starts, key=lambda start: loss(start)[0])
        options = {"maxiter": 500, "ftol": 1e-15, "gtol": 1e-7}
        for _ in range(3):  # a new start forgets a poor approximation of the curvature
            found = minimize(loss, best, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * 2, options=options)
            best = np.asarray(found.x)
        trust, entropy = (float(each) for each in best)
        log_weights = np.full(self._samples, -np.inf)
        log_weights[self._usable] = self._log_weights(trust, entropy)
        _, divergence, decrease = self.moments(trust, entropy)
        return NextTarget(trust, entropy, log_weights, divergence, decrease)
