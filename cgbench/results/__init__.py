"""What records tell: found runs, leaderboard, the MD baseline, comparison, tables, plots and the HTML report.

Everything here is computed from the files of runs; nothing is run. Imports one run's record and the rooms below it.
"""
