"""Runs as jobs of a SLURM cluster, submitted through submitit.

`executor` submits jobs and waits for them, `queue` finds the jobs of a sweep in SLURM, `job` executes a run on the
node, and `resources` holds the options of a job.
"""
