"""What molecules share: force-field engines, geometry, internal coordinates, and (in `reference`) reference building.

`parameters` reads a force field from an ``openmm.System``, `kernel_arrays` turns it into arrays in kT, `forcefield`
and `native_forcefield` evaluate those for batches of configurations, and `openmm_engine` evaluates OpenMM itself.
"""
