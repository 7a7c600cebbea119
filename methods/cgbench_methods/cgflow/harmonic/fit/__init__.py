"""The fit of the PMF to weighted samples: their variances, large weights, and the posterior."""
