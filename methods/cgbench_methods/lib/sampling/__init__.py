"""Samplers: Langevin and Metropolis integrators, walkers, bias potentials, restraints, exchange."""
