"""Estimators of a PMF: Fourier series and fits, a Bayesian surrogate, importance weights, MBAR, smoothed histograms."""
