"""Alanine dipeptide in implicit solvent, the standard test molecule of this field."""

from cgbench_systems.aldp.system import REFERENCE_FOLDER, AlanineDipeptide

__all__ = ["REFERENCE_FOLDER", "AlanineDipeptide"]
