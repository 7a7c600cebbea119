"""The splines' kernel in C++ (splines.cpp), with its derivative."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch

from cgbench import native

__all__ = ["MAX_BINS", "Settings", "kernel", "native_spline"]

MAX_BINS = 64  # as in splines.cpp
SOURCE = Path(__file__).with_name("splines.cpp")
WORTH_A_THREAD = 16_384  # splines evaluated, by each thread at least

Settings = tuple[float, float, float]


def kernel() -> ctypes.CDLL | None:
    """The compiled kernel; None where there is none."""
    return native.library(SOURCE)


class _Call:
    """Arguments that value and adjoint have in common."""

    suffixes = {torch.float32: "float", torch.float64: "double"}

    def __init__(self, x: torch.Tensor, parameters: torch.Tensor, settings: Settings, inverse: bool) -> None:
        dims, batch = x.shape
        bins = parameters.shape[1] // 3
        self.dims, self.suffix = dims, self.suffixes[x.dtype]
        self.shared = parameters.shape[2] == 1 and batch != 1
        self.threads = min(torch.get_num_threads(), max(1, dims * batch // WORTH_A_THREAD))
        self.numbers = (
            ctypes.c_int64(batch),
            bins,
            int(self.shared),
            int(inverse),
            *map(ctypes.c_double, settings),
        )

    def __call__(self, name: str, inputs: tuple[torch.Tensor, ...], others: tuple[Any, ...]) -> None:
        library = kernel()
        assert library is not None
        function = getattr(library, f"{name}_{self.suffix}")
        given = [_pointer(tensor) for tensor in inputs]
        rest = [_pointer(other) if isinstance(other, torch.Tensor) else other for other in others]

        def work(start: int, end: int) -> None:
            function(*given, *self.numbers, ctypes.c_int64(start), ctypes.c_int64(end), *rest)

        native.in_parallel(work, self.dims, self.threads)


def _pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class _NativeSpline(torch.autograd.Function):
    """Value and log-derivative; for the derivative everything is computed anew from inputs and parameters."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        parameters: torch.Tensor,
        offset: torch.Tensor,
        lower: torch.Tensor,
        upper: torch.Tensor,
        circular: torch.Tensor,
        settings: Settings,
        inverse: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take tensors as `native_spline` does, all contiguous."""
        y, log_derivative = torch.empty_like(x), torch.empty_like(x)
        call = _Call(x, parameters, settings, inverse)
        call("spline", (x, parameters, offset, lower, upper, circular), (y, log_derivative))
        ctx.save_for_backward(y if inverse else x, parameters, offset, lower, upper, circular)
        ctx.call = call
        return y, log_derivative

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: torch.Tensor, grad_log: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients in `x`, `parameters` and `offset`."""
        x, parameters, offset, lower, upper, circular = ctx.saved_tensors
        same = grad_log.stride(0) == 0 and grad_log.stride(1) == 1  # of a sum over the dimensions
        grad_log = grad_log if same else grad_log.contiguous()
        log_stride = ctypes.c_int64(0 if same else x.shape[1])
        grads = tuple(map(torch.empty_like, (x, parameters, offset)))
        ctx.call(
            "adjoint",
            (x, parameters, offset, lower, upper, circular),
            (grad_y.contiguous(), grad_log, log_stride, *grads),
        )
        grad_x, grad_parameters, grad_offset = grads
        return grad_x, grad_parameters, None if ctx.call.shared else grad_offset, None, None, None, None, None


def native_spline(
    x: torch.Tensor,
    parameters: torch.Tensor,
    offset: torch.Tensor | None,
    lower: torch.Tensor,
    upper: torch.Tensor,
    circular: torch.Tensor,
    settings: Settings,
    *,
    inverse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply one spline per dimension by the compiled kernel, which there must be.

    Parameters
    ----------
    x
        ``[dims, batch]``.
    parameters
        ``[dims, 3 bins, batch]``, or ``[dims, 3 bins, 1]`` where all inputs share them; at most `MAX_BINS` bins.
    offset
        ``[dims, 3 bins]``, added to parameters of a batch.
    lower, upper, circular
        ``[dims]``, the last boolean.
    settings
        Least size of a bin, least derivative, and the logit that gives derivative one.

    Returns
    -------
    outputs, log_derivative
        Each ``[dims, batch]``. Differentiable once.
    """
    offset = parameters.new_zeros(parameters.shape[:2]) if offset is None else offset
    tensors = (tensor.contiguous() for tensor in (x, parameters, offset, lower, upper, circular))
    return _NativeSpline.apply(*tensors, settings, inverse)  # type: ignore[no-untyped-call,no-any-return]
