"""Configuration fields that simulation methods share.

These are types of fields, not a base class: a base class would move its fields to the front of recorded
configurations.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

__all__ = ["CompileEnergy", "Friction", "StepSize", "TimeStep"]

TimeStep = Annotated[float, Field(gt=0, description="time step in ps; molecules only")]
Friction = Annotated[float, Field(gt=0, description="friction in 1/ps; molecules only")]
StepSize = Annotated[
    float, Field(gt=0, description="standard deviation of Metropolis proposals; systems without masses only")
]
CompileEnergy = Annotated[
    bool, Field(description="compile the torch energy; pays off for runs of more than a few minutes")
]
