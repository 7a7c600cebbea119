"""One run, from the request to its files.

`run` prepares and starts a run: `registry` finds systems and methods, `configuration` reads presets, and `plan` checks
the request. `state` holds the parts of a run, and `loop` iterates, scores, checkpoints and resumes it. `record` and
`run_folder` define the files of a run, `provenance` describes software and hardware, and `signals` handles interrupts.
Imports drawing, scoring, contracts, counting, storage, native and errors.
"""
