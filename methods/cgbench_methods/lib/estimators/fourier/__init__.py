"""Fourier functions of the collective variables (CVs): of one CV, and their products over all CVs.

With ``t = s - lower`` and ``L = upper - lower``, the functions of one CV are

    1, sqrt(2) cos(w_k t), sqrt(2) sin(w_k t)    with w_k = 2 pi k / L    (periodic CV),
    1, sqrt(2) cos(w_k t)                        with w_k = pi k / L      (other CVs).

They are orthonormal on the domain. The cosines of a non-periodic CV are the series of a function mirrored at both
ends, hence complete, with zero slope at the ends.

`ProductSeries` takes all products up to one order and holds coefficients as a tensor with one axis per CV: biases and
fitted free energies. `FourierBasis` selects products and holds coefficients as one vector: regression and features.

`GridProducts` sums products of two modes over the bins of a grid, without the modes at every bin.
"""

from cgbench_methods.lib.estimators.fourier.basis import FourierBasis
from cgbench_methods.lib.estimators.fourier.functions import FourierAxis, ProductSeries
from cgbench_methods.lib.estimators.fourier.products import GridProducts

__all__ = ["FourierAxis", "FourierBasis", "GridProducts", "ProductSeries"]
