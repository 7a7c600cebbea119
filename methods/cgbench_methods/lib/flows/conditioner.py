"""The residual network that computes the parameters of a coupling's splines from features and a context.

A block turns x into ``x + g (W2 silu(W1 silu(x) + b1) + b2)``, with ``g = sigmoid(Wc context + bc)`` if there is a
context, else 1. The architecture is nflows' `ResidualNet`. On CPUs its layers are evaluated with the batch contiguous
in memory, as the splines need it; C++ kernels (conditioner.cpp) do everything between the matrix products.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nflows.nn.nets import ResidualNet

from cgbench.native import in_parallel, tensors

__all__ = ["Conditioner"]

SOURCE = Path(__file__).with_name("conditioner.cpp")
WORTH_A_THREAD = 65_536  # least number of elements per thread


def _call(name: str, first: torch.Tensor, *others: torch.Tensor | None) -> None:
    """Call a kernel on arrays ``[features, batch]`` (the first) and ``[features]``."""
    rows, batch = first.shape
    function = tensors.function(SOURCE, name, first.dtype)
    places = [tensors.address(tensor) for tensor in (first, *others)]

    def work(start: int, end: int) -> None:
        function(*places, ctypes.c_int64(batch), ctypes.c_int64(start), ctypes.c_int64(end))

    in_parallel(work, rows, min(torch.get_num_threads(), rows * batch // WORTH_A_THREAD))


class _Network(torch.autograd.Function):
    """Initial layer, residual blocks and last layer, with their adjoint."""

    @staticmethod
    def forward(
        ctx: Any, features: torch.Tensor, context: torch.Tensor | None, blocks: int, *weights: torch.Tensor
    ) -> torch.Tensor:
        """Evaluate at ``features [features, batch]`` and ``context [batch, features]``; weights as in `Conditioner`.

        Returns
        -------
        Tensor
            ``[outputs, batch]``.
        """
        first, bias, last, *rest = weights
        inputs = features if context is None else torch.cat([features, context.t()])
        x = first @ inputs
        saved = [inputs, *weights] if context is None else [inputs, context, *weights]
        for number, (w1, b1, w2, b2, *gate) in enumerate(_blocks(rest, blocks)):
            s0, y = torch.empty_like(x), torch.empty_like(x)
            _call("silu", x, None if number else bias, s0)
            z = w1 @ s0
            s1 = torch.empty_like(z)
            _call("silu", z, b1, s1)
            t = w2 @ s1
            if context is None:
                _call("residual", x, t, b2, None, None, y)
                saved += [x, s0, z, s1]
            else:
                c = gate[0] @ context.t()
                _call("residual", x, t, b2, c, gate[1], y)
                saved += [x, s0, z, s1, t, c]
            x = y
        if blocks == 0:
            x += bias[:, None]
        ctx.save_for_backward(*saved, x)
        ctx.blocks, ctx.has_context = blocks, context is not None
        return last @ x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients that are needed; saved tensors are not changed."""
        blocks, has_context = ctx.blocks, ctx.has_context
        inputs, *saved, x = ctx.saved_tensors
        context = saved.pop(0) if has_context else None
        count = 3 + blocks * (6 if has_context else 4)
        (first, _, last, *rest), kept = saved[:count], saved[count:]
        wants_features, wants_context, _, *wanted = ctx.needs_input_grad
        wants_blocks = _blocks(wanted[3:], blocks)
        gradients: list[torch.Tensor | None] = []
        grad_context: torch.Tensor | None = None
        grad_last = grad @ x.t() if wanted[2] else None
        grad = last.t() @ grad
        grad_bias = grad.sum(1) if blocks == 0 else grad.new_empty(len(grad))
        per_block = len(kept) // max(blocks, 1)
        for number in reversed(range(blocks)):
            (w1, b1, w2, b2, *gate), wants = _blocks(rest, blocks)[number], wants_blocks[number]
            x, s0, z, s1, *more = kept[number * per_block : (number + 1) * per_block]
            ours: list[torch.Tensor | None] = []
            if context is None:
                grad_t, grad_b2 = grad, grad.sum(1)
            else:
                grad_t, grad_c = torch.empty_like(grad), torch.empty_like(grad)
                grad_b2, grad_bc = torch.empty_like(b2), torch.empty_like(b2)
                t, c = more
                _call("residual_adjoint", grad, t, b2, c, gate[1], grad_t, grad_c, grad_b2, grad_bc)
                ours = [grad_c @ context if wants[4] else None, grad_bc]
                if wants_context:
                    part = grad_c.t() @ gate[0]
                    grad_context = part if grad_context is None else grad_context + part
            grad_w2 = grad_t @ s1.t() if wants[2] else None
            grad_z, grad_b1 = w2.t() @ grad_t, torch.empty_like(b1)
            _call("silu_adjoint", z, grad_z, None, grad_b1)
            grad_w1 = grad_z @ s0.t() if wants[0] else None
            grad_x = w1.t() @ grad_z
            _call("silu_adjoint", x, grad_x, grad, grad_bias)
            grad = grad_x
            gradients = [grad_w1, grad_b1, grad_w2, grad_b2, *ours, *gradients]
        grad_first = grad @ inputs.t() if wanted[0] else None
        grad_features: torch.Tensor | None = None
        if wants_features or wants_context:
            grad_inputs = first.t() @ grad
            size = len(inputs) if context is None else len(inputs) - context.shape[1]
            grad_features = grad_inputs[:size]
            if context is not None:
                own = grad_inputs[size:].t()
                grad_context = own if grad_context is None else grad_context + own
        return grad_features, grad_context, None, grad_first, grad_bias, grad_last, *gradients


def _blocks(flat: Sequence[Any], blocks: int) -> list[Sequence[Any]]:
    size = len(flat) // max(blocks, 1)
    return [flat[number * size : (number + 1) * size] for number in range(blocks)]


class Conditioner(torch.nn.Module):
    """A residual network whose last layer has no bias and is initially zero.

    Parameters
    ----------
    features, context_features, outputs
        Sizes of inputs and outputs; `context_features` is 0 without a context.
    hidden_features, num_blocks
        Width and number of residual blocks.
    """

    def __init__(
        self,
        features: int,
        context_features: int,
        outputs: int,
        *,
        hidden_features: int,
        num_blocks: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.network = ResidualNet(
            in_features=features,
            out_features=1,
            hidden_features=hidden_features,
            context_features=context_features or None,
            num_blocks=num_blocks,
            activation=torch.nn.functional.silu,
        ).to(dtype)
        self.network.final_layer = torch.nn.Identity()
        self.weight = torch.nn.Parameter(torch.zeros(outputs, hidden_features, dtype=dtype))

    def forward(self, features: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        """Evaluate, ``[features, batch]`` and ``[batch, context features]`` to ``[outputs, batch]``."""
        if not tensors.serves(SOURCE, features, self.weight):
            hidden: torch.Tensor = self.network(features.t(), context)
            return self.weight @ hidden.t()
        weights = [self.network.initial_layer.weight, self.network.initial_layer.bias, self.weight]
        for block in self.network.blocks:
            layers = [*block.linear_layers] + ([] if context is None else [block.context_layer])
            weights += [part for layer in layers for part in (layer.weight, layer.bias)]
        blocks = len(self.network.blocks)
        return _Network.apply(features.contiguous(), context, blocks, *weights)  # type: ignore[no-untyped-call,no-any-return]
