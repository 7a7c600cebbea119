"""Counters, timers and random streams of a run. Every energy evaluation is charged here.

`ledger` counts evaluations and enforces the budget, `energy_gate` makes charged energies differentiable,
`openmm_simulation` charges the steps of OpenMM simulations, `openmm_integrators` knows how many evaluations they are,
`anomalies` counts numerical failures, `clock` measures seconds by phase, and `streams` provides named, seeded random
generators. Imports only errors.
"""
