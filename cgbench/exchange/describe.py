"""What was understood of a file, and its scores, in words for a user."""

from __future__ import annotations

import math
from collections.abc import Iterator

from cgbench.exchange.score import Score

__all__ = ["describe"]

WIDTH = 16
WORDS = {
    "reverse_kld": "reverse KLD",
    "jensen_shannon": "Jensen-Shannon",
    "total_variation": "total variation",
    "ramachandran_kld": "Ramachandran KLD",
    "ramachandran_tv": "Ramachandran TV",
    "delta_f_phi": "dF of phi",
    "delta_f_phi_error": "error of it",
    "ess": "ESS",
    "ess_clipped": "ESS, clipped",
    "torus_w2": "torus W2",
    "energy_histogram_distance": "energy histograms",
    "energy_w2": "energy W2",
    "eubo": "EUBO",
}
UNITS = {"delta_f_phi": " kT", "delta_f_phi_error": " kT", "torus_w2": " rad", "energy_w2": " kT"}


def describe(score: Score, evaluations: int | None = None) -> str:
    """Return what was understood of a file and its scores, in lines.

    Parameters
    ----------
    score
        The score.
    evaluations
        Energy evaluations that a user has stated, or None.
    """
    title = f"{score.path or 'PMF'} on {score.system}, version {score.system_version}"
    lines = [title, *_understood(score), *_scores(score)]
    if evaluations is not None:
        lines.append(_line("evaluations", f"{evaluations:,} (self-reported)"))
    return "\n".join(lines)


def _line(name: str, value: str) -> str:
    return f"  {name:<{WIDTH}}  {value}"


def _understood(score: Score) -> Iterator[str]:
    cvs = score.pmf.cvs
    yield _line("format", score.format)
    yield _line("axes", score.axes)
    if score.map is not None:
        yield _line("map", score.map)
    ranges = (
        f"{name} {low:.4g} to {high:.4g}" for name, low, high in zip(cvs.names, cvs.lower, cvs.upper, strict=True)
    )
    yield _line("scored on", f"{' x '.join(map(str, cvs.bins))} bins, {', '.join(ranges)} {cvs.unit}".rstrip())
    if score.unit:
        yield _line("unit", score.unit)
    if score.temperature is not None:
        yield _line("temperature", f"{score.temperature:g} K")
    if score.unvisited:
        yield _line("unvisited", f"{score.unvisited:,} points of the file have no value")
    mass = score.metrics.get("covered_mass")
    if score.empty_bins and mass is not None and score.sampled is None:
        yield _line("empty bins", f"{score.empty_bins:,}; they hold {1 - mass:.3g} of the reference probability")
    for name, lines in (("assumed", score.assumed), ("note", score.notes), ("warning", score.warnings)):
        for text in lines:
            yield _line(name, text)


def _scores(score: Score) -> Iterator[str]:
    metrics = score.metrics
    kld = metrics.get("forward_kld")
    if kld is None:
        return
    floor = float((score.reference or {}).get("noise_floor", 0.0))
    shown = f"<= {floor:.2g}" if kld < floor else f"{kld:.3g}"
    yield _line("forward KLD", f"{shown} (noise floor of the reference: {floor:.2g})" if floor else shown)
    error = metrics.get("interpolation_error")
    if error:
        yield _line("", f"interpolation changes it by up to {error:.2g}")
    if not math.isfinite(kld):
        mass, within = metrics.get("covered_mass"), metrics.get("forward_kld_covered")
        yield _line("", "infinite: the PMF is zero where the reference is not")
        yield _line("covered mass", f"{mass:.6g} of the reference; forward KLD within it {within:.3g}")
    other = score.other_metrics.get("forward_kld")
    if other is not None:
        name = "smoothed" if "histogram" in score.format else "histogram"
        yield _line("", f"{other:.3g} with the estimator {name}")
    for name, value in metrics.items():
        if name.startswith("delta_f_error/") and value is not None:
            yield _line(f"basin {name.partition('/')[2]}", f"free energy error {value:+.3f} kT")
    for name, words in WORDS.items():
        value = metrics.get(name)
        if value is not None:
            yield _line(words, f"{value:.4g}{UNITS.get(name, '')}")
    if score.density and score.density["impossible"]:
        impossible, samples = score.density["impossible"], score.density["samples"]
        yield _line("", f"infinite: zero density at {impossible:,} of {samples:,} reference samples")
