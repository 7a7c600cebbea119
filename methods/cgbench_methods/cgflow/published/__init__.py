"""The recipe of Schopmans & Friederich (ICML 2024, arXiv 2402.01195).

Notation: s are the collective variables (CVs), y the fine-grained coordinates, x(s, y) the configuration and u its
reduced energy. The flow ``y = f(z; s)`` maps noise z to samples of q(y|s).

1. *Starting trajectory* (`seeding`; phase ``seed_md``). Short molecular dynamics from the initial configuration.
2. *Training by example* (`training`; phase ``by_example``). Minimise ``-mean ln q(y|s)`` over its frames (forward KL).
3. *Training by energy* (`training`; phase ``train``). The first training points are the s of the trajectory. At each s
   minimise the reverse KL, estimated with several z:

       loss(s) = E_z[ u(x(s, y)) - ln|det dx/d(s, y)| - ln|det df/dz| ].

   An epoch visits the newest points and a share of the older ones (`points`). Some points are held out for validation
   (phase ``validate``). The highest losses of each batch are dropped.
4. *Labels* (`labels`; phase ``label``). At every point, importance sampling with the flow gives the PMF up to one
   common constant:

       A(s) = -ln E_{y ~ q(.|s)} [ exp(-u(x)) |det dx/d(s, y)| / q(y|s) ],

   with the few largest weights of each s set to the smallest of these few.
5. *Ensemble* (`ensemble`; phase ``fit``). Fit an ensemble of small networks to the labels by least squares, each
   network to its own random share. The members' mean is the PMF, their standard deviation its uncertainty.
6. *Exploration* (phase ``explore``). Monte Carlo walkers on the mean stop where the standard deviation exceeds a
   threshold. A few of these points, far from each other, are each broadened into many points in a ball around it: the
   newest training points. Back to step 3; end when no walker stops.

Grid conditioning takes the training points from a regular grid, and ends after step 5.

Differences from the publication, and choices where it leaves a detail open:

- The publication stops when the divergence from the ground truth is small. Here no step uses the ground truth; the run
  ends when no walker stops within its steps.
- The batch size of an epoch counts values of s, each with all its noise samples.
- The activation functions of the networks are SiLU.
- Labels are new samples of the flow, drawn once per iteration.
- Within an iteration, the weights of the last epoch give estimates at no further evaluations (`estimates`).
"""
