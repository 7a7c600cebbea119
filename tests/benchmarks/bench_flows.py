"""Splines against nflows' and normflows', and a whole stack of couplings against normflows'.

    python tests/benchmarks/bench_flows.py [--batch 1024] [--threads 1]

Prints the ratio of throughputs, lowest - median - highest over paired rounds.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable

import nflows.transforms.splines.rational_quadratic as nflows_splines
import torch
from timing import paired

from cgbench_methods.lib.flows.build import spline_coupling_flow
from cgbench_methods.lib.flows.splines import num_parameters, rational_quadratic_spline

warnings.filterwarnings("ignore", category=SyntaxWarning)
import normflows  # noqa: E402
from normflows.utils import splines as normflows_splines  # noqa: E402

DIMS, BINS, BOUND = 29, 8, 5.0
FLOW_DIMS, CIRCULAR, COUPLINGS, HIDDEN = 58, 10, 12, 256  # alanine dipeptide's 58 coordinates, 10 of them free torsions


def stacks(batch: int, *, inverse: bool) -> tuple[Callable[[], None], Callable[[], None]]:
    """One training step's work, value and gradient, on normflows' stack and on ours: same shapes, float32."""
    generator = torch.Generator().manual_seed(0)
    inputs = 2 * torch.rand(batch, FLOW_DIMS, generator=generator) - 1
    circular = torch.arange(FLOW_DIMS) < CIRCULAR
    bound = torch.where(circular, math.pi, BOUND)
    peers = torch.nn.ModuleList(
        normflows.flows.CircularCoupledRationalQuadraticSpline(
            FLOW_DIMS, 1, HIDDEN, list(range(CIRCULAR)), num_bins=BINS, tail_bound=bound, reverse_mask=bool(k % 2)
        )
        for k in range(COUPLINGS)
    )
    ours = spline_coupling_flow(
        circular=circular,
        lower=-bound,
        upper=bound,
        generator=generator,
        num_couplings=COUPLINGS,
        hidden_features=HIDDEN,
        num_bins=BINS,
        dtype=torch.float32,
    )
    for stack in (peers, ours):
        with torch.no_grad():
            for parameter in stack.parameters():
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    run = ours.inverse if inverse else ours.forward

    def theirs() -> None:
        peers.zero_grad()
        y, total = inputs, torch.zeros(batch)
        for layer in peers:
            y, log_det = layer(y) if inverse else layer.inverse(y)
            total = total + log_det
        (y.square().sum() + total.sum()).backward()

    def mine() -> None:
        ours.zero_grad()
        y, log_det = run(inputs)
        (y.square().sum() + log_det.sum()).backward()

    return theirs, mine


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(options.batch, DIMS, num_parameters(BINS), generator=generator, dtype=torch.float64)
    inputs = BOUND * (2 * torch.rand(options.batch, DIMS, generator=generator, dtype=torch.float64) - 1)
    upper = torch.full((DIMS,), BOUND, dtype=torch.float64)
    circular = torch.zeros(DIMS, dtype=torch.bool)
    widths, heights, slopes = raw.split(BINS, dim=-1)
    inner = slopes[..., 1:]
    print(f"one coupling's splines: batch {options.batch}, {DIMS} dimensions, {BINS} bins, {options.threads} threads")
    peers = {
        "nflows": nflows_splines.unconstrained_rational_quadratic_spline,
        "normflows": normflows_splines.unconstrained_rational_quadratic_spline,
    }
    for inverse in (False, True):
        for name, peer in peers.items():
            _, ours, ratios = paired(
                lambda peer=peer, inverse=inverse: peer(
                    inputs, widths, heights, inner, inverse=inverse, tails="linear", tail_bound=BOUND
                ),
                lambda inverse=inverse: rational_quadratic_spline(
                    inputs, raw, -upper, upper, circular, inverse=inverse
                ),
                options.rounds,
            )
            low, middle, high = ratios
            print(
                f"{'inverse' if inverse else 'forward'}: {1e3 * ours:.1f} ms; faster than {name} by "
                f"{low:.2f} - {middle:.2f} - {high:.2f}",
                flush=True,
            )
    print(
        f"{COUPLINGS} couplings, {HIDDEN} hidden, {BINS} bins, {FLOW_DIMS} dimensions, batch {options.batch}, float32, "
        "forward and backward"
    )
    for inverse in (False, True):
        theirs, mine = stacks(options.batch, inverse=inverse)
        _, ours, (low, middle, high) = paired(theirs, mine, max(3, options.rounds // 3))
        print(
            f"{'inverse' if inverse else 'forward'}: {options.batch / ours:,.0f} samples/s; "
            f"over normflows by {low:.2f} - {middle:.2f} - {high:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
