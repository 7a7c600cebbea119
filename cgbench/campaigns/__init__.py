"""Many runs: sweeps from one file, on this machine or on a SLURM cluster.

`sweep` reads the file and says how far each run is, `local` runs commands as processes, `slurm` as jobs. Imports
one run (`cgbench.running`) and the rooms below it.
"""
