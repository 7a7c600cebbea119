"""What methods and presets declare about themselves, for the documentation and the leaderboard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Algorithm", "Given", "PresetFacts", "Scores"]

Algorithm = Literal["published", "published, our settings", "ours", "standard"]
Scores = Literal["no trials recorded", "not looked at", "printed, not used", "looked at", "not known"]


@dataclass(frozen=True)
class Given:
    """What a method knows in advance, beside the counted energy, the temperature, and the grid of the PMF.

    Each attribute says in a few words how the method uses what it is given. An empty text means that the method does
    not use it.

    Attributes
    ----------
    collective_variables
        Use of the CVs and their domain.
    coordinates
        Use of the internal coordinates: Z-matrix, scales, torsions that turn freely, folded rotors.
    state_space
        Use of the state space: chirality, trans peptide bonds.
    masses
        Use of atomic masses, for dynamics.
    gradient
        Use of the gradient of the energy on a molecule.
    hessians
        Use of second derivatives, and where they come from.
    temperatures
        Temperatures above that of the PMF.
    free_energies
        A height in kT that the user states: of a barrier, a hill, or the region of interest.
    wells
        Knowledge of the wells of torsions that turn freely.
    start
        Use of the initial configuration, which is a minimum of the energy.
    variant
        The variant of the method that this is about, if it has several.
    """

    collective_variables: str
    state_space: str
    start: str
    coordinates: str = ""
    masses: str = ""
    gradient: str = ""
    hessians: str = ""
    temperatures: str = ""
    free_energies: str = ""
    wells: str = ""
    variant: str = ""


class PresetFacts(BaseModel):
    """Whose algorithm a preset runs, and how its settings were chosen: the key ``about`` of the preset's file.

    These are no settings: the method does not see them, and they are not part of the configuration of a run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    algorithm: Algorithm = Field(
        description="published: algorithm and settings of a publication; published, our settings; ours; or standard, "
        "a textbook method"
    )
    chosen: str = Field("", description="which settings were chosen, how, and which values were tried")
    tried_on: str = Field("", description="systems and seeds of the trial runs; empty if there were none")
    scores: Scores = Field(
        "not known", description="whether scores against a reference were in view when settings were chosen"
    )
    protocol: bool = Field(False, description="whether the choice followed the protocol of the documentation")
