"""Coverage: minima that the flow does not generate.

Weights of samples cannot tell that the flow omits a minimum: no sample is there. Relaxation does. At some s where the
PMF is low, the free torsions are turned all round and everything is relaxed. At each minimum of low energy, the
logarithm of the weight that a sample there would have,

    ln w = -E(s, y) - ln q(y|s) + A(s),        q(y|s) = sum_k t_k(y) q(k|s) q(y|s, k),

is of order one if the flow generates the minimum, and large if it does not
(`cgbench_methods.cgflow.harmonic.mixture` has the t_k).
"""

from __future__ import annotations

import torch

from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.atlas.rotamers import LOW, relax_all_round
from cgbench_methods.cgflow.harmonic.rounds import Rounds
from cgbench_methods.lib.flows.target import ConditionalTarget
from cgbench_methods.lib.lengths import apart

__all__ = ["largest_weight_of_minima"]


def largest_weight_of_minima(rounds: Rounds, target: ConditionalTarget, minima: HarmonicMinima) -> float:
    """Return the largest ``ln w`` of minima found by relaxation, at some s drawn from the PMF.

    Parameters
    ----------
    rounds
        The flow with its context, the shares and wells, and the PMF.
    target
        The energy without wells.
    minima
        Where relaxations start: at the nearest one of low free energy.
    """
    shares = rounds.shares
    assert shares is not None
    surrogate, cvs, config, generator = rounds.surrogate, rounds.cvs, rounds.config, rounds.streams.torch("coverage")
    p = torch.softmax(-surrogate.on_grid()[0], dim=0)
    s = torch.from_numpy(cvs.grid())[torch.multinomial(p, config.wells.checks, generator=generator)]
    distance = apart(cvs, s[:, None], minima.s[None, :, :-1])
    nearest = (distance + 0.1 * (minima.free_energy - minima.free_energy.min())).argmin(dim=1)
    found = relax_all_round(target, s, minima.y[nearest], minima.hessian[nearest], config, generator)
    count = len(found.y) // len(s)
    energy = found.energy.reshape(len(s), count)
    low = (energy < energy.min(dim=1, keepdim=True).values + LOW).flatten()  # false where not finite
    s = s.repeat_interleave(count, 0)[low]
    y = found.y[low]
    with torch.no_grad():
        log_q = rounds.mixture().log_density(s, y, shares.log_shares(s))
    log_weights = surrogate.mean(s) - found.energy[low] - log_q
    return float(log_weights.max())
