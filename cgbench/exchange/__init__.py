"""Results of other programs: their files are read, brought onto a system's grid, scored, recorded; PMFs are exported.

`formats` reads the files of each program into a `landscape`, without interpretation. `names` finds out which axis,
column or map is meant, `axes` brings axes into the order and unit of the CVs, `binning` integrates over the bins of the
grid, and `load` does all of it for a file. `samples` and `trajectories` read configurations and CVs, and `estimates`
makes PMFs of them. `score` lets the referee score either, `doubts` finds readings of a file that would score much
better and energies of another system, `external_record` writes the record, and `describe` says what was understood.
`formats.writers` is the way back. Imports `running` and the rooms below it; the reference is seen by the referee alone.
"""
