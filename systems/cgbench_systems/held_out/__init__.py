"""Held-out molecules: registered after the settings were frozen, as tests of settings that were chosen elsewhere.

No setting may be chosen on them. Each is a folder as in `cgbench_systems.suite`. Imports `cgbench_systems.molecule`.
"""

from __future__ import annotations

from pathlib import Path

from cgbench_systems.molecule import RegisteredMolecule, registered_molecule

__all__ = ["asparagine", "aspartate", "cysteine", "leucine", "threonine", "tyrosine"]


def _held_out(name: str, folder: str) -> type[RegisteredMolecule]:
    """Return the class of the molecule in a folder, to be known as `name`."""
    return registered_molecule(name, Path(__file__).parent / folder / "molecule.yaml", "Held-out molecule")


asparagine = _held_out("asparagine", "asn")
aspartate = _held_out("aspartate", "asp")
cysteine = _held_out("cysteine", "cys")
leucine = _held_out("leucine", "leu")
threonine = _held_out("threonine", "thr")
tyrosine = _held_out("tyrosine", "tyr")
