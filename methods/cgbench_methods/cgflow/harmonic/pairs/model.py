"""A Bayesian model of a PMF over many collective variables: a sum of functions of one and of two of them.

The coefficients of the modes (`PairBasis`) have a Gaussian prior: a squared-exponential Gaussian process for the
functions of one CV and one for those of two, each with its own variance, around a prior mean. Data enter by the
Gaussian approximation of their likelihood,

    ln likelihood(c) ~ h.c - 1/2 c.J c,

whose terms J and h of all rounds are added up. The cost of a round does not grow with the samples of earlier rounds.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.cgflow.harmonic.pairs.basis import PairBasis

__all__ = ["PairModel", "PairPrior"]

FREE = 1e4  # kT squared; prior variance of the constant
LEAST = 1e-8  # kT squared; smallest prior variance of a mode
AT_ONCE = 4096  # points whose modes are in memory at once
STEPS = 20  # largest number of steps of an update
LEAST_GAIN = 0.1  # nats


@dataclass(frozen=True)
class PairPrior:
    """Prior of the model.

    Attributes
    ----------
    length_scale
        In `cgbench_methods.lib.lengths`.
    single, pair
        Standard deviation in kT of each function of one CV, and of each function of two.
    """

    length_scale: float
    single: float
    pair: float


class PairModel:
    """PMF as a sum of functions of one and two CVs, with its posterior.

    Parameters
    ----------
    cvs
        The collective variables.
    order
        Order of the basis.
    prior
        The prior.

    Attributes
    ----------
    coefficients
        Posterior mean ``[modes]``.
    """

    def __init__(self, cvs: CollectiveVariables, order: int, prior: PairPrior) -> None:
        self.cvs, self.basis = cvs, PairBasis(cvs, order)
        modes = len(self.basis)
        self.prior_mean = torch.zeros(modes, dtype=torch.float64)
        self.information = torch.zeros(modes, modes, dtype=torch.float64)
        self.pull = torch.zeros(modes, dtype=torch.float64)
        self.set_prior(prior)

    # ---- prior and posterior ----------------------------------------------------------------------

    def set_prior(self, prior: PairPrior) -> None:
        """Set the prior, and the posterior that follows."""
        self.prior = prior
        self._precision = self._prior_precision(prior)
        self._solve()

    def _prior_precision(self, prior: PairPrior) -> torch.Tensor:
        """Return the prior's precision of each mode ``[modes]``.

        The variances of the modes of one function sum to the square of its standard deviation.
        """
        degree, cvs = self.basis.degree, len(self.cvs)
        spectrum = torch.exp(-0.5 * prior.length_scale**2 * self.basis.squared_frequency)
        variance = torch.full_like(spectrum, FREE)
        for number, (deviation, functions) in enumerate(((prior.single, cvs), (prior.pair, cvs * (cvs - 1) // 2)), 1):
            own = degree == number
            variance[own] = deviation**2 * functions * spectrum[own] / spectrum[own].sum()
        return 1.0 / variance.clamp(min=LEAST)

    def _factor(self, precision: torch.Tensor) -> torch.Tensor:
        """Return the Cholesky factor of the posterior precision."""
        factor: torch.Tensor = torch.linalg.cholesky(self.information + precision.diag())
        return factor

    def _solve(self) -> None:
        """Set the posterior."""
        self._cholesky = self._factor(self._precision)
        right = self.pull + self._precision * self.prior_mean
        self.coefficients = torch.cholesky_solve(right[:, None], self._cholesky).squeeze(1)
        self._form = self.basis.form(self.coefficients)

    def log_evidence(self, prior: PairPrior) -> float:
        """Return the log evidence of a prior, up to a constant, in the Gaussian approximation of the likelihood."""
        precision = self._prior_precision(prior)
        factor = self._factor(precision)
        slope = self.pull - self.information @ self.prior_mean
        gain = torch.linalg.solve_triangular(factor, slope[:, None], upper=False).square().sum()
        return float(0.5 * precision.log().sum() - factor.diagonal().log().sum() + 0.5 * gain)

    def improve_prior(self, factor: float = 1.5) -> None:
        """Move each setting of the prior by a factor, up or down, if the evidence grows."""
        best = self.log_evidence(self.prior)
        for name in ("length_scale", "single", "pair"):
            for times in (factor, 1.0 / factor):
                trial = replace(self.prior, **{name: getattr(self.prior, name) * times})
                evidence = self.log_evidence(trial)
                if evidence > best:
                    best, self.prior = evidence, trial
                    break
        self.set_prior(self.prior)

    def adopt(self, other: PairModel) -> None:
        """Use another model's posterior mean as prior mean, without its data."""
        self.prior_mean = other.coefficients.clone()
        self._solve()

    # ---- the model at points ----------------------------------------------------------------------

    def mean(self, s: torch.Tensor) -> torch.Tensor:
        """Posterior mean of A in kT ``[batch]``."""
        return torch.cat([self.basis.value(part, self._form) for part in s.split(AT_ONCE)])

    def mean_and_slopes(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean of A ``[batch]`` and of its gradient ``[batch, cvs]``."""
        parts = [self.basis.series(part, self.coefficients) for part in s.split(AT_ONCE)]
        return torch.cat([value for value, _ in parts]), torch.cat([slope for _, slope in parts])

    def std(self, s: torch.Tensor) -> torch.Tensor:
        """Posterior standard deviation of A, without its constant, ``[batch]``."""
        parts = []
        for part in s.split(AT_ONCE):
            features = self.basis(part)
            features[:, 0] = 0.0
            parts.append(torch.linalg.solve_triangular(self._cholesky, features.T, upper=False).norm(dim=0))
        return torch.cat(parts)

    # ---- data -------------------------------------------------------------------------------------

    def fit_values(
        self,
        s: torch.Tensor,
        values: torch.Tensor,
        noise: torch.Tensor,
        slopes: torch.Tensor | None = None,
        slope_noise: torch.Tensor | None = None,
    ) -> None:
        """Fit to values of A with Gaussian noise, and to slopes, instead of all data before.

        Parameters
        ----------
        s, values, noise
            Points ``[n, cvs]``, values in kT ``[n]`` and their standard deviations ``[n]``.
        slopes, slope_noise
            Gradients of A ``[n, cvs]``, NaN where unknown, and their standard deviations
            ``[n, cvs]``; by default there are none.
        """
        features = self.basis(s) / noise[:, None]
        self.information = features.T @ features
        self.pull = features.T @ (values / noise)
        if slopes is not None and slope_noise is not None:
            for axis, own in enumerate(slopes.isfinite().T):
                derivative, chosen = self.basis.slopes(s[own], axis)
                derivative = derivative / slope_noise[own, axis, None]
                self.information[chosen[:, None], chosen] += derivative.T @ derivative
                self.pull[chosen] += derivative.T @ (slopes[own, axis] / slope_noise[own, axis])
        self._solve()

    def update(
        self,
        s: torch.Tensor,
        log_weights: torch.Tensor,
        variance: torch.Tensor,
        slopes: torch.Tensor | None,
        slope_variance: torch.Tensor,
        truncation: float,
    ) -> None:
        """Add importance weights w, whose mean is ``exp(-A(s))``, and the slopes of their logarithms.

        As in `cgbench_methods.lib.estimators.surrogate`, the terms of the objective are
        ``(w exp(A) - A) / v`` and ``r (b + dA/ds)^2 / (2 u)``, with b the slopes and ``r = w exp(A)`` of the model
        before. Its information is that which is expected for a model that is right.

        Parameters
        ----------
        s, log_weights, slopes
            ``[n, cvs]``, ``[n]`` and ``[n, cvs]``; slopes may be None, and are omitted where they are not finite.
        variance
            Relative variance v of the weights ``[n]``.
        slope_variance
            Variances u of the slopes along each CV ``[cvs]``, times r.
        truncation
            Weights are cut at this multiple of the model.
        """
        known_weights = (log_weights + self.mean(s)).clamp(max=math.log(truncation)) - self.mean(s)
        information = torch.zeros_like(self.information)
        fixed = torch.zeros_like(self.information)
        of_slopes = torch.zeros_like(self.pull)
        for rows in torch.arange(len(s)).split(AT_ONCE):
            part = s[rows]
            features = self.basis(part) * variance[rows].rsqrt()[:, None]
            information += features.T @ features
            if slopes is None:
                continue
            ratio = (known_weights[rows] + self.mean(part)).exp()
            for axis in range(s.shape[1]):
                usable = slopes[rows, axis].isfinite()
                share = torch.where(usable, ratio / slope_variance[axis], 0.0)
                measured = torch.where(usable, slopes[rows, axis], 0.0)
                derivative, chosen = self.basis.slopes(part, axis)
                scaled = derivative * share[:, None]
                fixed[chosen[:, None], chosen] += scaled.T @ derivative
                of_slopes[chosen] -= scaled.T @ measured
        self._descend(s, known_weights, variance, information, fixed, of_slopes)

    def _descend(
        self,
        s: torch.Tensor,
        log_weights: torch.Tensor,
        variance: torch.Tensor,
        information: torch.Tensor,
        fixed: torch.Tensor,
        of_slopes: torch.Tensor,
    ) -> None:
        """Minimise the objective by scoring steps with line search, and add its Gaussian approximation to the data."""
        old_precision = self.information + self._precision.diag()
        old_pull = self.pull + self._precision * self.prior_mean
        whole = torch.linalg.cholesky(old_precision + information + fixed)
        features = [self.basis(part) for part in s.split(AT_ONCE)] if len(s) <= 4 * AT_ONCE else None

        def values(c: torch.Tensor) -> torch.Tensor:
            return self.basis.value(s, self.basis.form(c))

        def pulled(weights: torch.Tensor) -> torch.Tensor:
            parts = features if features is not None else (self.basis(part) for part in s.split(AT_ONCE))
            total = torch.zeros_like(self.pull)
            for part, weight in zip(parts, weights.split(AT_ONCE), strict=True):
                total += part.T @ weight
            return total

        def objective(c: torch.Tensor) -> tuple[float, torch.Tensor]:
            of_s = values(c)
            ratio = (log_weights + of_s).clamp(max=50.0).exp()
            loss = ((ratio - of_s) / variance).sum()
            loss = loss + 0.5 * c @ ((old_precision + fixed) @ c) - (old_pull + of_slopes) @ c
            return float(loss), ratio

        c = self.coefficients
        value, ratio = objective(c)
        length = 1.0
        for _ in range(STEPS):
            gradient = (old_precision + fixed) @ c - old_pull - of_slopes + pulled((ratio - 1.0) / variance)
            step = torch.cholesky_solve(gradient[:, None], whole).squeeze(1)
            length = min(1.0, 2.0 * length)
            while length > 1e-3:
                trial = objective(c - length * step)
                if trial[0] < value:
                    break
                length *= 0.5
            else:
                break
            gain, c = value - trial[0], c - length * step
            value, ratio = trial
            if gain < LEAST_GAIN:
                break
        slope = pulled((ratio - 1.0) / variance) + fixed @ c - of_slopes
        self.information = self.information + information + fixed
        self.pull = self.pull + (information + fixed) @ c - slope
        self._solve()

    # ---- checkpoints ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the data, the prior and its mean."""
        return {
            "prior": list(astuple(self.prior)),
            "prior_mean": self.prior_mean,
            "information": self.information,
            "pull": self.pull,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.prior_mean, self.information, self.pull = state["prior_mean"], state["information"], state["pull"]
        self.set_prior(PairPrior(*state["prior"]))
