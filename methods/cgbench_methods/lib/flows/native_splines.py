"""The C++ kernel of the splines (splines.cpp) and its derivative."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch

from cgbench.native import in_parallel, tensors

__all__ = ["MAX_BINS", "Settings", "native_spline", "serves"]

MAX_BINS = 64  # the same in splines.cpp
SOURCE = Path(__file__).with_name("splines.cpp")
WORTH_A_THREAD = 16_384  # least number of spline evaluations per thread

Settings = tuple[float, float, float]


def serves(inputs: torch.Tensor, parameters: torch.Tensor) -> bool:
    """Return whether the kernel can be used; parameters are ``[batch, dims, 3 bins]``, with at most `MAX_BINS` bins."""
    return parameters.shape[-1] <= 3 * MAX_BINS and tensors.serves(SOURCE, inputs, parameters)


class _Call:
    """Arguments shared by the kernels of value and adjoint."""

    def __init__(self, x: torch.Tensor, parameters: torch.Tensor, settings: Settings, inverse: bool) -> None:
        dims, batch = x.shape
        bins = parameters.shape[1] // 3
        self.dims, self.dtype = dims, x.dtype
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
        function = tensors.function(SOURCE, name, self.dtype)
        given = [tensors.address(tensor) for tensor in inputs]
        rest = [tensors.address(other) if isinstance(other, torch.Tensor) else other for other in others]

        def work(start: int, end: int) -> None:
            function(*given, *self.numbers, ctypes.c_int64(start), ctypes.c_int64(end), *rest)

        in_parallel(work, self.dims, self.threads)


class _NativeSpline(torch.autograd.Function):
    """Value and log-derivative; the adjoint recomputes everything from inputs and parameters."""

    @staticmethod
    def forward(ctx: Any, settings: Settings, inverse: bool, *given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate; the tensors are those of `native_spline`, in its order, all contiguous."""
        x, parameters = given[:2]
        y, log_derivative = torch.empty_like(x), torch.empty_like(x)
        call = _Call(x, parameters, settings, inverse)
        call("spline", given, (y, log_derivative))
        ctx.save_for_backward(y if inverse else x, *given[1:])
        ctx.call = call
        return y, log_derivative

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: torch.Tensor, grad_log: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients in `x`, `parameters` and `offset`."""
        given = ctx.saved_tensors
        same = grad_log.stride(0) == 0 and grad_log.stride(1) == 1  # gradient of a sum over the dimensions
        grad_log = grad_log if same else grad_log.contiguous()
        log_stride = ctypes.c_int64(0 if same else given[0].shape[1])
        grads = tuple(map(torch.empty_like, given[:3]))
        ctx.call("adjoint", given, (grad_y.contiguous(), grad_log, log_stride, *grads))
        grad_x, grad_parameters, grad_offset = grads
        return None, None, grad_x, grad_parameters, None if ctx.call.shared else grad_offset, None, None, None


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
    """Apply one spline per dimension by the compiled kernel, where `serves` is true.

    Parameters
    ----------
    x
        ``[dims, batch]``.
    parameters
        ``[dims, 3 bins, batch]``, or ``[dims, 3 bins, 1]`` if all inputs share them; at most `MAX_BINS` bins.
    offset
        ``[dims, 3 bins]``, added to the parameters of each input.
    lower, upper, circular
        Bounds and kind of each dimension ``[dims]``, the last boolean.
    settings
        Least size of a bin, least derivative, and the logit of derivative one.

    Returns
    -------
    outputs, log_derivative
        Each ``[dims, batch]``. Differentiable once.
    """
    offset = parameters.new_zeros(parameters.shape[:2]) if offset is None else offset
    given = (tensor.contiguous() for tensor in (x, parameters, offset, lower, upper, circular))
    return _NativeSpline.apply(settings, inverse, *given)  # type: ignore[no-untyped-call,no-any-return]
