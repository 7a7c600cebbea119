"""The library: what methods and reference builders share and no method owns.

`sampling` has integrators, walkers and biases, `flows` normalizing flows, `estimators` Fourier fits, importance
weights, MBAR and smoothing. The library knows a system only through `cgbench.contracts.problem.Problem`; the reference
builders of systems use it too.
"""
