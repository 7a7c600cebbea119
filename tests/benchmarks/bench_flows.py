"""Spline kernel against nflows' and normflows', and the speed of whole flows.

    python tests/benchmarks/bench_flows.py [--batch 1024] [--threads 1]

Prints the ratio of throughputs, lowest - median - highest over paired rounds.
"""

from __future__ import annotations

import argparse
import warnings

import nflows.transforms.splines.rational_quadratic as nflows_splines
import torch
from timing import paired

from methods.flows.splines import num_parameters, rational_quadratic_spline

warnings.filterwarnings("ignore", category=SyntaxWarning)
from normflows.utils import splines as normflows_splines  # noqa: E402

DIMS, BINS, BOUND = 29, 8, 5.0


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
    widths, heights, slopes = raw.split([BINS, BINS, BINS + 1], dim=-1)
    inner = slopes[..., 1:-1]
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


if __name__ == "__main__":
    main()
