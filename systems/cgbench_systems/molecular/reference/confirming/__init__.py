"""Routes that confirm a certified reference: other time steps, a Metropolis correction, importance sampling.

They never enter the reference. `frozen` samples under a frozen bias that the reference implies, `importance` draws from
a trained flow, and `uncertainty` states what they say about the free energies of the basins.
"""
