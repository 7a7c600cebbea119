"""Torch tensors as arguments of kernels, which come in two: ``<name>_float`` and ``<name>_double``."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch

from cgbench.native import library

__all__ = ["address", "function", "serves"]

SUFFIXES = {torch.float32: "float", torch.float64: "double"}


def serves(source: Path, *tensors: torch.Tensor) -> bool:
    """Whether a kernel can take these tensors: of one such type, on the CPU, and compiled on this machine."""
    types = {tensor.dtype for tensor in tensors}
    near = all(tensor.device.type == "cpu" for tensor in tensors)
    return near and len(types) == 1 and types <= set(SUFFIXES) and library(source) is not None


def function(source: Path, name: str, dtype: torch.dtype) -> Any:
    """Return the kernel for numbers of this type; `serves` says whether there is one."""
    found = library(source)
    assert found is not None
    return getattr(found, f"{name}_{SUFFIXES[dtype]}")


def address(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """Where a contiguous tensor begins; null for none."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
