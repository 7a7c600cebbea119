"""A Bayesian model of the PMF: a Gaussian process in a Fourier basis.

The PMF is ``A(s) = sum_j c_j phi_j(s)`` with a Gaussian prior on the coefficients. It is fitted to values of A with
Gaussian noise, or to importance weights w with ``E[w] = exp(-A(s))`` by minimising

    sum_i v_i (w_i exp(A(s_i)) - A(s_i)) - ln prior,

the deviance of exponential variables of relative variance ``1 / v_i``. Unlike the logarithm of an average weight, this
is unbiased for any number of samples per point.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.estimators.fourier import FourierBasis, GridProducts
from cgbench_methods.lib.estimators.fourier.design import Design, GridDesign, PointDesign
from cgbench_methods.lib.estimators.fourier.likelihood import fit_series

__all__ = ["FourierSurrogate"]

FEW_CVS = 2  # up to this number, the modes at all bins fit into memory and the cache
LEAST_GAIN = (1e-3, 2e-2)  # nats; of a fit with few CVs, and with more: far below the effect of noise
POINTS_AT_ONCE = (20_000, 1_000)  # with few CVs, and with more: intermediate sums are larger


class FourierSurrogate:
    """PMF ``A(s)`` as a Fourier series whose coefficients have a Gaussian prior.

    The prior is a Gaussian process with squared-exponential covariance of standard deviation `amplitude` and length
    scale `length_scale`, restricted to the basis (Solin and Särkkä, Stat. Comput. 30, 419, 2020), around a prior mean
    in the same basis. The posterior gives the PMF with its uncertainty; its additive constant is free.

    Parameters
    ----------
    cvs
        The collective variables (CVs).
    order
        Largest wave number along each CV.
    length_scale
        Length scale of the prior, in `cgbench_methods.lib.lengths` (radians for torsions).
    amplitude
        Standard deviation of the prior in kT.
    prior_mean
        Coefficients of the prior mean; zero by default.
    """

    def __init__(
        self,
        cvs: CollectiveVariables,
        order: int,
        length_scale: float,
        amplitude: float,
        prior_mean: torch.Tensor | None = None,
    ) -> None:
        self.cvs, self.order = cvs, order
        self.basis = FourierBasis(cvs, order, product=True)
        self.products = GridProducts(self.basis, cvs)
        self.many = len(cvs) > FEW_CVS
        self.prior_mean = torch.zeros(len(self.basis), dtype=torch.float64) if prior_mean is None else prior_mean
        self.coefficients = self.prior_mean.clone()
        self.set_prior(length_scale, amplitude)
        self._inverse_factor = torch.diag(self._precision.rsqrt())
        self._on_grid: tuple[torch.Tensor, torch.Tensor] | None = None
        self._stated_error: torch.Tensor | None = None
        empty = torch.zeros(len(self.basis), len(self.basis), dtype=torch.float64)
        self._likelihood = (empty, empty[0])  # information and gradient at the fitted coefficients

    def set_prior(self, length_scale: float, amplitude: float) -> None:
        """Set the prior of the next fit."""
        self.length_scale, self.amplitude = length_scale, amplitude
        self._precision = self._prior_precision(length_scale, amplitude)

    def _prior_precision(self, length_scale: float, amplitude: float) -> torch.Tensor:
        spectrum = torch.exp(-0.5 * length_scale**2 * self.basis.squared_frequency)
        spectrum = amplitude**2 * spectrum / spectrum.sum()
        spectrum[0] = 1e4  # leaves the constant free
        return 1.0 / spectrum.clamp(min=1e-10)

    def choose_prior(self, length_scales: Iterable[float], amplitudes: Iterable[float]) -> None:
        """Set the prior of largest evidence, in a Gaussian approximation of the likelihood of the last `fit_weights`.

        The gradient and information of the likelihood at the fitted coefficients determine the evidence of any other
        prior, without the data.
        """
        information, gradient = self._likelihood
        deviation = self.coefficients - self.prior_mean
        best = (-math.inf, self.length_scale, self.amplitude)
        for length_scale, amplitude in itertools.product(length_scales, amplitudes):
            prior = self._prior_precision(length_scale, amplitude)
            factor = torch.linalg.cholesky(information + prior.diag())
            slope = gradient + prior * deviation
            gain = 0.5 * torch.linalg.solve_triangular(factor, slope[:, None], upper=False).square().sum()
            energy = 0.5 * (prior * deviation**2).sum() - gain
            evidence = float(0.5 * prior.log().sum() - factor.diagonal().log().sum() - energy)
            best = max(best, (evidence, length_scale, amplitude))
        self.set_prior(*best[1:])

    def adopt_posterior(self, other: FourierSurrogate, constant: float) -> None:
        """Use another model's posterior, raised by a constant, until the next fit, and its mean as prior mean."""
        self.prior_mean = other.coefficients.clone()
        self.prior_mean[0] += constant
        self.coefficients = self.prior_mean.clone()
        self._inverse_factor = other._inverse_factor.clone()
        self._on_grid = self._stated_error = None

    def mean(self, s: torch.Tensor) -> torch.Tensor:
        """Posterior mean of A in kT, ``[batch, cvs] -> [batch]``."""
        return self.mean_and_slopes(s)[:, 0]

    def height(self, s: torch.Tensor) -> torch.Tensor:
        """Posterior mean of A above its minimum over the grid in kT, ``[batch, cvs] -> [batch]``."""
        return self.mean(s) - self.on_grid()[0].min()

    def mean_and_slopes(self, s: torch.Tensor) -> torch.Tensor:
        """Posterior mean of A and of its gradient, ``[batch, cvs] -> [batch, 1 + cvs]``."""
        return torch.cat([self.basis.series(part, self.coefficients) for part in s.split(POINTS_AT_ONCE[self.many])])

    def mean_and_std(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and standard deviation of A, each ``[batch]``."""
        features = self.basis(s)
        return features @ self.coefficients, torch.linalg.vector_norm(features @ self._inverse_factor, dim=1)

    def std_of_features(self, features: torch.Tensor) -> torch.Tensor:
        """Posterior standard deviation of linear functions of the coefficients, ``[batch, modes] -> [batch]``."""
        std: torch.Tensor = torch.linalg.vector_norm(features @ self._inverse_factor, dim=1)
        return std

    def excess_of_prior_shift(self, features: torch.Tensor) -> torch.Tensor:
        """Return the squared shift of linear functions by the prior, less its expectation, where positive.

        With the prior's precision P, the deviation d of the coefficients from the prior mean, and the posterior
        covariance C, the prior shifts a function with features phi by ``phi C P d`` to first order. The posterior
        variance is the sampling variance plus ``phi C P C phi``, the mean square of this shift under the prior. The
        squared error is larger where the prior is too smooth.

        Parameters
        ----------
        features
            ``[batch, modes]``, such as the modes at some points.

        Returns
        -------
        torch.Tensor
            In kT squared ``[batch]``.
        """
        features = features.clone()
        features[:, 0] = 0.0  # the constant is free
        moved = features @ self._inverse_factor @ self._inverse_factor.T
        shift = moved @ (self._precision * (self.coefficients - self.prior_mean))
        return (shift**2 - (moved**2 * self._precision).sum(1)).clamp(min=0.0)

    def whitened_features(self, s: torch.Tensor, derivative: int | None = None) -> torch.Tensor:
        """Modes (or their derivatives) times a factor of the posterior covariance, ``[batch, modes]``."""
        return self.basis(s, derivative) @ self._inverse_factor

    def on_grid(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and standard deviation at the centres of the PMF's bins, each ``[cells]``."""
        if self._on_grid is None:
            mean = self.basis.on_product_grid(self.products.centres, self.coefficients).reshape(-1)
            variance = self.products.quadratic_form(self._inverse_factor @ self._inverse_factor.T)
            self._on_grid = mean, variance.clamp(min=0.0).sqrt()
        return self._on_grid

    def stated_error_on_grid(self) -> torch.Tensor:
        """Standard error of the normalised PMF at the centres of its bins ``[cells]`` (see `stated_error`)."""
        if self._stated_error is None:
            parts = torch.from_numpy(self.cvs.grid()).split(4096)
            p = torch.softmax(-self.on_grid()[0], 0)
            mean = sum(own @ self.basis(part) for own, part in zip(p.split(4096), parts, strict=True))
            self._stated_error = torch.cat([self.stated_error(self.basis(part) - mean) for part in parts])
        return self._stated_error

    def stated_error(self, features: torch.Tensor) -> torch.Tensor:
        """Return the standard error of linear functions: of the posterior, with `excess_of_prior_shift`.

        A PMF is known up to a constant. To first order the error of ``-ln p`` is that of A less its mean under p. Hence
        the features of a PMF must have the mean zero under p: an error that the populated region has in common cancels.

        Parameters
        ----------
        features
            ``[batch, modes]``.
        """
        return (self.std_of_features(features) ** 2 + self.excess_of_prior_shift(features)).sqrt()

    def table(self) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """Return `mean_and_std` tabulated at the PMF's bin centres, for walks of many steps."""
        mean, std = self.on_grid()
        cvs = self.cvs

        def look_up(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            cell = cvs.bin_index(s, nearest=True)
            return mean[cell], std[cell]

        return look_up

    def _set_posterior(self, coefficients: torch.Tensor, precision: torch.Tensor) -> None:
        self.coefficients = coefficients
        self._on_grid = self._stated_error = None
        factor = torch.linalg.cholesky(precision)
        identity = torch.eye(len(precision), dtype=torch.float64)
        self._log_det_precision = 2.0 * factor.diagonal().log().sum()
        self._inverse_factor = torch.linalg.solve_triangular(factor, identity, upper=False).T

    def _prior_energy(self) -> torch.Tensor:
        deviation = self.coefficients - self.prior_mean
        return 0.5 * (self._precision * deviation**2).sum() - 0.5 * self._precision.log().sum()

    def fit_values(
        self,
        s: torch.Tensor,
        values: torch.Tensor,
        noise: torch.Tensor,
        slopes: torch.Tensor | None = None,
        slope_noise: torch.Tensor | None = None,
    ) -> float:
        """Fit to values of A with Gaussian noise, and to slopes; return the log evidence.

        Parameters
        ----------
        s, values, noise
            Points ``[n, cvs]``, values in kT ``[n]`` and their standard deviations ``[n]``.
        slopes, slope_noise
            Gradients of A ``[n, cvs]``, NaN where unknown, and their standard deviations ``[n, cvs]`` (or a shape that
            is expanded to this); by default there are none.
        """
        features = self.basis(s)
        if slopes is not None and slope_noise is not None:
            slope_noise = slope_noise.expand(slopes.shape)
            known = slopes.isfinite()
            of_slopes = [self.basis(s[own], axis) for axis, own in enumerate(known.T)]
            features = torch.cat([features, *of_slopes])
            values = torch.cat([values, slopes.T[known.T]])
            noise = torch.cat([noise, slope_noise.T[known.T]])
        scaled = features / noise[:, None] ** 2
        precision = features.T @ scaled + torch.diag(self._precision)
        residual = values - features @ self.prior_mean
        shift = torch.linalg.solve(precision, scaled.T @ residual)
        self._set_posterior(self.prior_mean + shift, precision)
        misfit = 0.5 * (((values - features @ self.coefficients) / noise) ** 2).sum() + noise.log().sum()
        return float(-misfit - self._prior_energy() - 0.5 * self._log_det_precision)

    def fit_weights(
        self,
        s: torch.Tensor,
        log_weights: torch.Tensor,
        inverse_variance: torch.Tensor,
        slopes: torch.Tensor | None = None,
        slope_precision: torch.Tensor | None = None,
        iterations: int = 50,
        cells: torch.Tensor | None = None,
    ) -> None:
        """Fit to importance weights with conditional mean ``exp(-A(s))``, and to slopes of A, by Newton's method.

        The objective is that of the module's description; slopes add half their squared residuals times their
        precision. It is convex.

        Parameters
        ----------
        s, log_weights
            Points ``[n, cvs]`` and logarithms of the weights ``[n]`` (minus infinity for weight zero).
        inverse_variance
            Inverse relative variance v of each weight ``[n]``.
        slopes, slope_precision
            Estimates of the gradient of A ``[n, cvs]`` and their inverse variances ``[n, cvs]``.
        iterations
            Largest number of Newton steps.
        cells
            If the points are centres of bins of the PMF's grid: the numbers of these bins ``[n]``, each once. The fit
            is then much faster.
        """

        def design(derivative: int | None) -> Design:
            if cells is None:
                return PointDesign(self.basis, s, derivative)
            return GridDesign(self.products, cells, derivative)

        fitted, information, gradient = fit_series(
            design(None),
            [] if slopes is None else [design(axis) for axis in range(slopes.shape[1])],
            log_weights,
            inverse_variance,
            slopes,
            slope_precision,
            self.coefficients,
            self.prior_mean,
            self._precision,
            iterations=iterations,
            least_gain=LEAST_GAIN[self.many],
        )
        self._likelihood = (information, gradient)
        self._set_posterior(fitted, information + torch.diag(self._precision))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a fit changes."""
        return {
            "prior_mean": self.prior_mean,
            "coefficients": self.coefficients,
            "inverse_factor": self._inverse_factor,
            "length_scale": self.length_scale,
            "amplitude": self.amplitude,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.set_prior(float(state["length_scale"]), float(state["amplitude"]))
        self.prior_mean, self.coefficients = state["prior_mean"], state["coefficients"]
        self._inverse_factor = state["inverse_factor"]
        self._on_grid = self._stated_error = None
