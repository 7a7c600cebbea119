"""Histograms smoothed with a Gaussian kernel: those of the harness, under the name that methods use."""

from __future__ import annotations

from cgbench.contracts.smoothing import WIDTHS, likeliest_width, smooth, smoothed_pmf

__all__ = ["WIDTHS", "likeliest_width", "smooth", "smoothed_pmf"]
