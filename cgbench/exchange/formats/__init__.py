"""One module for each family of programs: what their files hold, read without interpretation.

`plumed`, `colvars`, `wham` (Grossfield), `gromacs`, `openmm` (arrays in .npy), `archives` (.npz of cgbench and of
pymbar) and `csv_table` return a `cgbench.exchange.landscape.Landscape`. `detect` tells the format of a file, `options`
which options it takes, `text` reads text safely, and `writers` writes PMFs for other programs. The formats are
implemented from their descriptions.
"""
