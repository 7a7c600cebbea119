"""Our recipe with more than three collective variables (CVs): no table over all CVs, maps from weights of (s, y).

The notation and the flow are those of `cgbench_methods.cgflow.harmonic`. Four things differ:

1. *Model of the PMF* (`basis`, `model`). A sum of functions of one and of two CVs, each a Gaussian process in a Fourier
   basis. It is a proposal for s, no estimate.
2. *Harmonic minima* (`search`). Markov chains on the model propose reference points; on the way to a new point the
   fine-grained coordinates are relaxed in short steps of s.
3. *Choice of s* (`rounds`, `chains`). Persistent Markov chains sample ``pi(s) = exp(-A_model(s) / softness)`` below a
   ceiling.
4. *Maps and states* (`samples`, `assisted`). With s drawn from pi and y from the flow, the joint weight of a sample is

       w = exp(-E(s, y)) / (q(y|s) pi(s)).

   The weighted samples are those of the Boltzmann density for any flow and any model, up to one constant for each
   round. Hence the PMF of any map and the population of any state follow from histograms of these weights: so it is
   during the training. Over many CVs the weights have heavy tails, and truncation biases the maps. Therefore sampling
   is a Markov chain: walkers move by dynamics, and accept proposals of the flow by their joint weights.

`recipe` is the loop: minima, rounds of training after which the model learns from the samples (`learning`), then rounds
of sampling with fixed model and flow. `verdict` says whether the result is reliable.
"""
