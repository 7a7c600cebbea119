"""Any molecule from a file: structure, bond graph, automatic Z-matrix, state space, and the system they make.

`definition` reads the file, `structure` the PDB, `sequence` builds a peptide, `graph` finds rings, stereocentres, amide
bonds and free torsions, `torsions` knows IUPAC names, `zmatrix` and `coordinates` place the atoms, `system` puts it all
together, `registered` is for molecules of this package. `files` and `describe` write and explain a molecule's file; no
system imports them. Imports `cgbench_systems.molecular`.
"""

from __future__ import annotations

from cgbench_systems.molecule.registered import RegisteredMolecule, registered_molecule
from cgbench_systems.molecule.system import Molecule, load_molecule

__all__ = ["Molecule", "RegisteredMolecule", "load_molecule", "registered_molecule"]
