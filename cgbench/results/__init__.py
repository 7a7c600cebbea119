"""Results computed from the files of runs; nothing is run here.

`runs` finds runs, and `dataframe` returns them as a pandas table. `leaderboard` ranks methods, `baseline` has plain MD,
which speedups refer to, and `statistics` the median over seeds with its interval. `compare` tests two sets of results
against each other, and `rescore` recomputes metrics. `numbers`, `tables` and `plots` present results; `report` is the
HTML page. Imports `running` and the rooms below it.
"""
