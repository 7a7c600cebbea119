"""One run, from the request to its files.

`registry` finds systems and methods, `configuration` reads presets, `plan` checks a request, `run` iterates, scores
and checkpoints, `record` and `run_folder` are what it leaves behind, `provenance` says where a number comes from,
and `signals` handles interrupts. Imports scoring, contracts, counting, drawing and storage.
"""
