"""References of molecules that are scored on several maps and on states.

`bias` adds up biases on all torsions, `starts` spreads walkers over the molecule's conformations, `routes` samples
under the frozen bias and without any, `certificate` writes the reference and `build` puts them together. `verify`
compares a certified reference with new sampling.
"""
