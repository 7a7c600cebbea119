"""What is counted, timed and drawn in a run, and where an energy evaluation is charged.

`ledger` counts evaluations and enforces the budget, `energy_gate` makes charged energies differentiable,
`openmm_simulation` charges OpenMM's steps, `anomalies` counts numerical failures, `clock` measures seconds by
phase, and `streams` hands out seeded random generators. Imports no other room but errors.
"""
