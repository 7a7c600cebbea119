"""The library: what methods and reference builders use and no method owns.

`sampling` has integrators, walkers and biases, `flows` normalizing flows, `estimators` Fourier fits, importance
weights and smoothing. It knows systems only through `cgbench.contracts.problem.Problem`; the reference builders of
systems use it, too.
"""
