"""Many runs: sweeps defined in one file, on this machine or on a SLURM cluster.

`sweep` reads the file and reports the state of each run, `local` executes commands as processes, and `slurm` as jobs.
Imports running, storage and errors.
"""
