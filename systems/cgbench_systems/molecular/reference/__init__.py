"""Building and checking the reference PMF of a molecule with two dihedral angles as collective variables.

Three independent routes sample the same PMF: `biased` (metadynamics, then its frozen bias), `umbrella` (MBAR) and
`unbiased`. `certificate` writes the reference from the first, `comparison` and `dynamics_check` check it against the
others and against OpenMM, and `build` puts these together. `verify` tests a finished reference in a few minutes.
"""
