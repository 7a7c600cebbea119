"""A field for the candidate orders of Fourier fits."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

__all__ = ["FitOrders"]


def _increasing(orders: tuple[int, ...]) -> tuple[int, ...]:
    if list(orders) != sorted(set(orders)) or orders[0] < 1:
        raise ValueError(f"orders must be positive and increasing, not {list(orders)}")
    return orders


FitOrders = Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_increasing)]
