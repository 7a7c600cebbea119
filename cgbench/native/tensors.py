"""Torch tensors as arguments of kernels, which exist in two precisions: ``<name>_float`` and ``<name>_double``."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch

from cgbench.native import library

__all__ = ["address", "function", "serves"]

SUFFIXES = {torch.float32: "float", torch.float64: "double"}


def serves(source: Path, *tensors: torch.Tensor) -> bool:
    """Whether a kernel can use these tensors: all float or all double, on the CPU, and the kernel can be compiled."""
    types = {tensor.dtype for tensor in tensors}
    on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
    return on_cpu and len(types) == 1 and types <= set(SUFFIXES) and library(source) is not None


def function(source: Path, name: str, dtype: torch.dtype) -> Any:
    """Return the kernel for this dtype. Check with `serves` first that it exists."""
    loaded = library(source)
    assert loaded is not None
    return getattr(loaded, f"{name}_{SUFFIXES[dtype]}")


def address(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """Return the address of a contiguous tensor's data; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
