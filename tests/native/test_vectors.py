"""The elementary functions of the kernels, in units in the last place against numpy's extended precision."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cgbench import native

SOURCE = Path(__file__).with_name("functions.cpp")
FORMATS = {np.float32: "float", np.float64: "double"}
Call = Callable[..., np.ndarray]

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def call() -> Call:
    library = native.library(SOURCE)
    assert library is not None

    def function(name: str, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
        arrays = [np.ascontiguousarray(x), np.ascontiguousarray(x if y is None else y), np.empty_like(x)]
        kernel = getattr(library, f"{name}_{FORMATS[x.dtype.type]}")
        kernel(*(ctypes.c_void_p(array.ctypes.data) for array in arrays), ctypes.c_int(len(x)))
        return arrays[2]

    return function


@pytest.fixture(params=FORMATS, ids=lambda dtype: dtype.__name__)
def dtype(request) -> type:
    return request.param


def units(got: np.ndarray, true: np.ndarray) -> float:
    """Largest error in units in the last place."""
    return float((np.abs(got - true) / np.spacing(np.abs(true).astype(got.dtype))).max())


def widest(dtype: type) -> float:
    return 87.0 if dtype is np.float32 else 708.0


ARGUMENTS = {  # the whole range of each function, and arguments near its delicate points
    "exponential": lambda r, w: [r.uniform(-w, w, 20001), r.normal(size=20001), 1e-4 * r.normal(size=20001)],
    "logarithm": lambda r, w: [np.exp(r.uniform(-w, w, 20001)), r.uniform(0.5, 2, 20001), 1 + 1e-4 * r.normal(size=99)],
    "square_root": lambda r, w: [np.exp(r.uniform(-w, w, 20001))],
    "softplus": lambda r, w: [r.uniform(-0.9 * w, w, 20001), r.normal(size=20001)],
    "sigmoid": lambda r, w: [r.uniform(-0.9 * w, w, 20001), r.normal(size=20001)],
    "floor_of": lambda r, w: [r.uniform(-w, w, 20001), np.arange(-5.0, 5.0), [-0.25, 0.75]],
}
TRUTH = {
    "exponential": np.exp,
    "logarithm": np.log,
    "square_root": np.sqrt,
    "softplus": lambda x: np.logaddexp(x, np.longdouble(0)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "floor_of": np.floor,
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_few_units_in_the_last_place(name: str, dtype: type, call: Call) -> None:
    random = np.random.default_rng(0)
    x = np.concatenate(ARGUMENTS[name](random, widest(dtype))).astype(dtype)
    true = TRUTH[name](x.astype(np.longdouble))
    assert units(call(name, x), true) < {"square_root": 0.51, "floor_of": 0.1}.get(name, 4.0)


def test_angles_in_all_quadrants(dtype: type, call: Call) -> None:
    random = np.random.default_rng(1)
    near, far = random.normal(size=(2, 20001)), np.exp(random.uniform(-20, 20, (2, 20001)))
    y, x = np.concatenate([near, far * random.choice([-1, 1], far.shape)], axis=1).astype(dtype)
    assert units(call("arctangent", y, x), np.arctan2(y.astype(np.longdouble), x.astype(np.longdouble))) < 3.0
    edges = np.array([(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1), (1e-30, 0)], dtype=dtype)
    far_away = np.array([(np.inf, 1), (-np.inf, 1), (1, np.inf), (1, -np.inf)], dtype=dtype)
    y, x = np.concatenate([edges, far_away]).T
    np.testing.assert_allclose(call("arctangent", y, x), np.arctan2(y, x), rtol=2 * np.finfo(dtype).eps)


def test_nan_propagates(dtype: type, call: Call) -> None:
    nan = np.array([np.nan, 1.0], dtype=dtype)
    for name in (*ARGUMENTS, "absolute"):
        assert np.isnan(call(name, nan)).tolist() == [True, False], name
    assert np.isnan(call("arctangent", nan, nan[::-1])).all()
    zero, infinite = np.array([0.0], dtype=dtype), np.array([np.inf], dtype=dtype)
    for point in (zero, infinite):
        assert np.isnan(call("arctangent", point, point)).all()
    assert np.isnan(call("logarithm", infinite)).all()
    assert np.isinf(call("softplus", infinite)) and call("sigmoid", infinite) == 1.0
    assert np.isinf(call("square_root", infinite)) and np.isnan(call("square_root", -infinite))


def test_exponentials_are_clamped_to_normal_numbers(dtype: type, call: Call) -> None:
    low, high = call("exponential", np.array([-np.inf, np.inf], dtype=dtype))
    assert np.finfo(dtype).tiny <= low < 1e10 * np.finfo(dtype).tiny
    assert 1e-10 * np.finfo(dtype).max < high <= np.finfo(dtype).max


def test_a_result_does_not_depend_on_its_position(dtype: type, call: Call) -> None:
    x = np.random.default_rng(2).normal(size=67).astype(dtype)
    for name in ("exponential", "softplus", "sigmoid"):
        whole = call(name, x)
        for length in (1, 3, 15, 16, 17, 33):
            assert np.array_equal(call(name, x[-length:]), whole[-length:]), name
