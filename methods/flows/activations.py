"""Activations of the flows' networks."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch

from cgbench import native

__all__ = ["silu"]

SOURCE = Path(__file__).with_name("activations.cpp")
SUFFIXES = {torch.float32: "float", torch.float64: "double"}
WORTH_A_THREAD = 65_536  # numbers, for each thread at least


def _call(name: str, z: torch.Tensor, *others: torch.Tensor) -> None:
    library = native.library(SOURCE)
    assert library is not None
    function = getattr(library, f"{name}_{SUFFIXES[z.dtype]}")
    place, *rest = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (z, *others))

    def work(start: int, end: int) -> None:
        function(place, ctypes.c_int64(start), ctypes.c_int64(end), *rest)

    native.in_parallel(work, z.numel(), min(torch.get_num_threads(), z.numel() // WORTH_A_THREAD))


class _NativeSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(z)
        _call("silu", z, y)
        ctx.save_for_backward(z)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (z,) = ctx.saved_tensors
        grad_z = torch.empty_like(z)
        _call("adjoint", z, grad.contiguous(), grad_z)
        return grad_z


def silu(z: torch.Tensor) -> torch.Tensor:
    """``z / (1 + exp(-z))`` of every element; on CPUs by a kernel in C++. Differentiable once."""
    if z.device.type == "cpu" and z.dtype in SUFFIXES and native.library(SOURCE) is not None:
        return _NativeSilu.apply(z.contiguous())  # type: ignore[no-untyped-call,no-any-return]
    return torch.nn.functional.silu(z)
