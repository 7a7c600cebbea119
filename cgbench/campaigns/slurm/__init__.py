"""Runs as jobs of a SLURM cluster, submitted through submitit.

`executor` submits and waits, `queue` knows what SLURM has, `job` is what runs on the node, `resources` what a job
asks for.
"""
