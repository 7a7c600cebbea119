"""Settings of unconditional flows that several methods have."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cgbench.contracts.method import MethodConfig

__all__ = ["FlowConfig"]


class FlowConfig(MethodConfig):
    """Shape of the flow over all coordinates."""

    coordinates: str = Field("default", description="name of the system's coordinate set")
    fine_scale: float = Field(1.0, gt=0, description="standard deviation of the base in fine-grained coordinates")
    num_couplings: int = Field(6, ge=1)
    hidden_features: int = Field(96, ge=1)
    num_blocks: int = Field(1, ge=0)
    num_bins: int = Field(8, ge=2, le=500, description="of a spline; each has at least a thousandth of its range")
    spline_on_identity: bool = Field(
        False, description="also transform the conditioning half of a coupling, by unconditional splines"
    )
    tail_bound: float = Field(5.0, gt=0, description="splines are the identity outside this range")
    dtype: Literal["float32", "float64"] = "float32"
