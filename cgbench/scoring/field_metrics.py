"""Metrics of publications on samples and generative models, as they define them: pure functions.

Ramachandran divergence and total variation (Schopmans and Friederich, arXiv:2501.19077; von Klitzing et al.,
arXiv:2510.18460), effective sample size with clipped weights (the same), Wasserstein-2 distances of energies and on
the torus (Tan et al., arXiv:2502.18462), and the free-energy difference of the two sides of phi. The publications
compare with a long MD trajectory; here the reference PMF of the system takes its place where that is enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF

__all__ = [
    "OF_PMF",
    "OF_SAMPLES",
    "WeightedSamples",
    "clipped_ess",
    "energy_distances",
    "ess",
    "of_pmf",
    "of_samples",
    "phi_difference",
    "ramachandran_kld",
    "torus_w2",
]

Array = NDArray[np.float64]
OF_PMF = ("ramachandran_kld", "ramachandran_tv", "delta_f_phi", "delta_f_phi_error")
OF_SAMPLES = (*OF_PMF, "ess", "ess_clipped", "torus_w2", "energy_histogram_distance", "energy_w2", "eubo")
RAMACHANDRAN_BINS = (100, 100)
EPSILON = 1e-10  # added to densities
CLIPPED = 1e-4  # share of the largest weights
PHI = (0.0, 2.0)  # rad
ENERGY_BINS = 50
PAIRS = 1000  # most samples on each side of an assignment
QUANTILES = 2000  # of energies


@dataclass(frozen=True)
class WeightedSamples:
    """Samples with weights.

    Attributes
    ----------
    s
        CVs ``[samples, cvs]``.
    weights
        Weight of each sample, mean 1.
    weighted
        Whether the weights are more than ones.
    x
        Configurations ``[samples, ...]``, if their energies are to be compared; else None.
    """

    s: Array
    weights: Array
    weighted: bool
    x: Array | None = None


@dataclass(frozen=True)
class ComparedEnergies:
    """Energies of samples beside those of equilibrium.

    Attributes
    ----------
    reference
        Reduced energies of equilibrium samples.
    samples, weights
        Reduced energies of samples, and their weights.
    """

    reference: Array
    samples: Array
    weights: Array


def _is_ramachandran(cvs: CollectiveVariables) -> bool:
    return cvs.bins == RAMACHANDRAN_BINS and all(cvs.periodic) and cvs.unit == "rad"


def ramachandran_kld(cvs: CollectiveVariables, reference: Array, estimate: Array) -> float:
    """Return ``sum p ln(p / q)`` times the area of a bin, with p and q the densities of 100 x 100 bins plus 1e-10.

    Parameters
    ----------
    cvs
        Two angles with 100 bins each.
    reference, estimate
        Probabilities of the bins; each is normalised.
    """
    area = float(np.prod([(cvs.upper[k] - cvs.lower[k]) / cvs.bins[k] for k in range(len(cvs))]))
    p, q = (part / part.sum() / area + EPSILON for part in (reference, estimate))
    return float((p * np.log(p / q)).sum() * area)


def phi_difference(inside: float) -> float:
    """Return ``ln(N_out / N_in)`` in kT, from the share of samples with phi in [0, 2] rad."""
    if inside <= 0 or inside >= 1:
        return math.inf if inside <= 0 else -math.inf
    return math.log((1 - inside) / inside)


def _phi_share(pmf: PMF, axis: int) -> float:
    """Return the probability of phi in [0, 2] rad; bins at the ends count in part."""
    edges = pmf.cvs.edges(axis)
    overlap = np.minimum(edges[1:], PHI[1]) - np.maximum(edges[:-1], PHI[0])
    overlap = np.where(overlap > 1e-9, overlap, 0.0)  # an edge at 0 is there up to rounding
    others = tuple(k for k in range(len(pmf.cvs)) if k != axis)
    return float((pmf.probability.sum(axis=others) * overlap / np.diff(edges)).sum())


def ess(weights: Array) -> float:
    """Return Kish's effective sample size ``(sum w)^2 / (n sum w^2)`` as a fraction of the samples."""
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))


def clipped_ess(weights: Array) -> float:
    """Return the effective sample size after the largest 1e-4 of the weights are set to the smallest of them."""
    count = math.ceil(CLIPPED * len(weights))
    return ess(np.minimum(weights, np.partition(weights, -count)[-count]))


def _systematic(weights: Array, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return indices of `count` samples drawn in proportion to their weights, by systematic resampling."""
    steps = (np.arange(count) + random.random()) / count
    return np.minimum(np.searchsorted(np.cumsum(weights) / weights.sum(), steps), len(weights) - 1)


def torus_w2(cvs: CollectiveVariables, a: Array, b: Array) -> float:
    """Return the Wasserstein-2 distance of two equally large samples of angles, in rad, by an exact assignment.

    The squared distance of two points is the sum over the CVs of the squared shorter angle between them.
    """
    cost = (cvs.difference(a[:, None], b[None]) ** 2).sum(-1)
    rows, columns = linear_sum_assignment(cost)
    return float(np.sqrt(cost[rows, columns].mean()))


def energy_distances(reference: Array, energies: Array, weights: Array) -> tuple[float, float]:
    """Return the total variation of histograms of energies, and the Wasserstein-2 distance of energies in kT.

    The histograms have 50 equal bins over the range of the reference, and one on each side for what is beyond it.
    """
    edges = np.linspace(reference.min(), reference.max(), ENERGY_BINS + 1)
    ends = np.concatenate([[-np.inf], edges[:-1], [np.nextafter(edges[-1], np.inf), np.inf]])
    p, q = np.histogram(reference, ends)[0], np.histogram(energies, ends, weights=weights)[0]
    distance = float(0.5 * np.abs(p / p.sum() - q / q.sum()).sum())
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    order = np.argsort(energies)
    cumulative = np.cumsum(weights[order])
    place = np.minimum(np.searchsorted(cumulative / cumulative[-1], levels), len(order) - 1)
    difference = np.quantile(reference, levels, method="inverted_cdf") - energies[order][place]
    return distance, float(np.sqrt((difference**2).mean()))


def of_pmf(reference: PMF, estimate: PMF) -> dict[str, float | None]:
    """Return the metrics of `OF_PMF`; None where the CVs are not phi and psi on 100 x 100 bins."""
    found: dict[str, float | None] = dict.fromkeys(OF_PMF)
    cvs = reference.cvs
    if _is_ramachandran(cvs):
        p, q = reference.probability, estimate.probability
        found["ramachandran_kld"] = ramachandran_kld(cvs, p, q)
        found["ramachandran_tv"] = float(0.5 * np.abs(p - q).sum())
    if "phi" in cvs.names and cvs.unit == "rad":
        axis = cvs.names.index("phi")
        true, value = (phi_difference(_phi_share(pmf, axis)) for pmf in (reference, estimate))
        found |= {"delta_f_phi": value, "delta_f_phi_error": value - true}
    return found


def of_samples(
    reference: PMF,
    samples: WeightedSamples,
    random: np.random.Generator,
    reference_s: Array | None = None,
    energies: ComparedEnergies | None = None,
) -> dict[str, float | None]:
    """Return the metrics of `OF_SAMPLES` but "eubo"; None where something is missing.

    Parameters
    ----------
    reference
        The reference PMF.
    samples
        The samples; their histogram is taken without a pseudocount.
    random
        For the choice of the samples of the assignment.
    reference_s
        CVs of equilibrium samples.
    energies
        Energies of equilibrium samples and of the samples.
    """
    cvs, s, weights = reference.cvs, samples.s, samples.weights
    found: dict[str, float | None] = dict.fromkeys(OF_SAMPLES)
    counts = cvs.histogram(s, weights)
    if counts.sum() > 0:
        found |= of_pmf(reference, PMF(cvs, counts))
    if "phi" in cvs.names and cvs.unit == "rad":
        axis = cvs.names.index("phi")
        phi = cvs.wrap(s)[:, axis]
        value = phi_difference(float(weights[(phi >= PHI[0]) & (phi <= PHI[1])].sum() / weights.sum()))
        found |= {"delta_f_phi": value, "delta_f_phi_error": value - phi_difference(_phi_share(reference, axis))}
    if samples.weighted:
        found |= {"ess": ess(weights), "ess_clipped": clipped_ess(weights)}
    if reference_s is not None and all(cvs.periodic) and cvs.unit == "rad":
        count = min(PAIRS, len(reference_s), len(s))
        chosen = random.choice(len(reference_s), count, replace=False)
        found["torus_w2"] = torus_w2(cvs, reference_s[chosen], s[_systematic(weights, count, random)])
    if energies is not None:
        distance, w2 = energy_distances(energies.reference, energies.samples, energies.weights)
        found |= {"energy_histogram_distance": distance, "energy_w2": w2}
    return found
