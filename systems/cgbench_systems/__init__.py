"""Systems: Boltzmann densities with their collective variables, internal coordinates and references.

`muller_brown` and `aldp` are the systems; `molecular` holds what molecules share: force-field engines, internal
coordinates, and the building of references. Systems may use the library `cgbench_methods.lib`, but no method.
"""
