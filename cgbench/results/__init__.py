"""Results computed from the files of runs; nothing is run here.

`runs` finds runs, and `dataframe` returns them as a pandas table. `leaderboard` ranks methods, `md_baseline` has the
convergence of plain MD that speedups refer to, and `compare` tests two sets of results against each other. `numbers`,
`tables` and `plots` present results; `report` is the HTML page. Imports `running` and the rooms below it.
"""
