"""Coverage: minima that the flow does not generate.

Weights of samples cannot tell that the flow omits a minimum: no sample is there. Relaxation does. At some s where the
PMF is low, the free torsions are turned all round and everything is relaxed. At each minimum of low energy, the
logarithm of the weight that a sample there would have,

    ln w = -E_k(s, y) - ln q(y|s, k) - ln q(k|s) + A(s),

is of order one if the flow generates the minimum, and large if it does not.
"""

from __future__ import annotations

import torch

from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.atlas.wells import relax_all_round
from cgbench_methods.cgflow.harmonic.rounds import Rounds
from cgbench_methods.lib.flows.target import ConditionalTarget
from cgbench_methods.lib.lengths import apart

__all__ = ["largest_weight_of_minima"]

LOW = 4.0  # kT above the lowest minimum at the same s; others have little weight


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
    flow, features, shares, wells = rounds.flow, rounds.basis, rounds.shares, rounds.wells
    assert flow is not None and shares is not None and wells is not None
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
    points, y = wells.own_point(s, found.y[low])
    well = points[:, -1].long()
    with torch.no_grad():
        log_q = flow.log_prob(y, features(points)) + shares.log_shares(s).gather(1, well[:, None]).squeeze(1)
    log_weights = wells.log_membership(y, well) - found.energy[low] - log_q + surrogate.mean(s)
    return float(log_weights.max())
