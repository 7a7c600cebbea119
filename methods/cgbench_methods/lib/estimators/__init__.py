"""Estimators of a PMF: Fourier bases and fits, a Bayesian surrogate, importance weights, smoothed histograms."""
