"""Our recipe: the flow starts from harmonic minima, trains with path gradients, and all its samples give the PMF.

Notation: s are the collective variables (CVs), y the d fine-grained coordinates, x(s, y) the configuration, and

    E(s, y) = u(x(s, y)) - ln|det dx/d(s, y)|,    A(s) = -ln int exp(-E(s, y)) dy

the reduced energy of (s, y) and the PMF. A sample ``y = f(z; s)`` of the flow q(y|s), z the noise, has the importance
weight ``w = exp(-E(s, y)) / q(y|s)``; the mean of w over z is ``exp(-A(s))``.

1. *Harmonic minima* (`atlas`; phase ``warm_start``). At reference points s_i minimise E over y, starting
   from the minimum of the nearest reference point. The first is the s of the initial configuration. At the minimum
   y_i compute the Hessian H_i by finite differences of gradients. Laplace's approximation gives

       A(s_i) ~ E(s_i, y_i) + 1/2 ln det H_i - d/2 ln(2 pi).

   A Gaussian-process model of these values, and of the slopes dE/ds at the minima, which cost nothing, chooses the
   next reference points: walkers on its mean stop where its standard deviation is large. With more than two CVs the
   points then grow along their frontier, across barriers. Grid conditioning instead adds the neighbouring nodes of a
   regular grid.
2. *Flow* (`affine`, `response`, `flow`). Fit m(s) and L(s), Fourier series of s, to the minima and the inverse
   Hessians. The flow starts as the conditional Gaussian ``y = m(s) + L(s) e``, with von Mises densities of the periodic
   coordinates. Between e and z are a quadratic response, by which coordinates follow the products of others, and spline
   couplings; both start as the identity.
3. *Training round* (`rounds`; phase ``train``). Draw s mostly where A is low: from ``exp(-A / softness)`` and a uniform
   share below a ceiling, and around the points of step 5. Minimise the Jensen-Shannon divergence of q(y|s) and p(y|s)
   by Adam with path gradients, ``E_z[2 u/(1 + u) (dE/dy + d ln q/dy) dy/dtheta]`` with ``u = w exp(A(s))``. Keep the
   log-weight ``ln w`` of every training sample and its slopes ``d ln w/ds`` at fixed z.
4. *Fit* (`fit`; phase ``fit``). Fit a Fourier series with a Gaussian-process prior to all weighted
   samples so far: minimise

       sum_i [ (w_i exp(A(s_i)) - A(s_i)) / v_i + 1/2 r_i |b_i + dA/ds(s_i)|^2 / u_i ] + prior,

   with the slopes ``b_i = d ln w_i/ds``, ``r_i = w_i exp(A(s_i))`` of the previous fit, and v_i, u_i the variances of
   r_i and of ``r_i (b_i + dA/ds)``. The weights give the PMF, and the slopes its mean force, since
   ``E_z[w (d ln w/ds + dA/ds)] = 0`` for any flow. The evidence chooses the prior's length scale and amplitude. The
   posterior is the estimate of the PMF, with its standard deviation.
5. *Exploration* (phase ``explore``). Walkers on the posterior mean stop where its standard deviation exceeds a
   threshold. A few of these points, far from each other, get a share of the samples of the next round. Back to
   step 3, `training.rounds` times in all.
6. *Sampling round* (phase ``label``). Draw weighted samples from the trained flow, s as in step 3, then repeat steps 4
   and 5. Stop when no walker finds an uncertain point and the expected forward KLD, ``1/2 sum p var(A)`` over the
   bins, is small enough, or after the largest number of rounds.

If y contains free torsions with several wells, the integral over y is first split into one part for each well
(`atlas.wells`). Every step then works at points (s, k), with a harmonic minimum in each well k, k in the context of the
flow, and k drawn from learned shares (`shares`). Weights are those of the mixture over k (`mixture`). After training,
relaxation searches for minima that the flow omits (`coverage`, phase ``validate``).

`recipe` is the loop over these steps; `record` describes a run for its record and its figures. The settings of step 1
are under the configuration key ``atlas``, those of sampling under ``labels``.
"""
