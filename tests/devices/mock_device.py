"""A mock device: it computes on the CPU, and is as strict as a GPU about where tensors are.

What runs on it has its tensors and generators where a GPU needs them, and comes to the CPU's numbers, because the CPU
computes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.backend_registration as registration
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["NAME", "OnDevice", "operations", "mock_device"]

NAME = "mock"
ON_CPU = torch.Generator
TRANSFERS = ("aten::_to_copy", "aten::copy_")  # may have tensors of both places
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_")  # what is indexed alone must be on the device
INDICES = (torch.int64, torch.int32, torch.bool)

operations: list[str] = []  # what the device was asked to do so far


class OnDevice(torch.Tensor):
    """A tensor of the device; `held` is the same on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        made: OnDevice = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=f"{NAME}:0",
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        """Python's numbers, which a GPU's tensors give as well."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class Generator(torch.Generator):
    """A generator of the device, if that is asked for."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls) if torch.device(device).type == NAME else ON_CPU(device=device)

    @property
    def device(self) -> torch.device:
        """The device."""
        return torch.device(NAME)


class _Operations(TorchDispatchMode):
    """Sees the operations that no tensor of the device takes part in yet."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Looks after generators, and after tensors of Python's numbers, which PyTorch would ask the device itself for."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        generator = kwargs.get("generator")
        if generator is not None:
            asked = kwargs.get("device") or next((a.device for a in args if isinstance(a, torch.Tensor)), "cpu")
            if torch.device(asked).type != generator.device.type:
                raise RuntimeError(f"{function}: expected a generator of {asked}, not of {generator.device}")
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return function(*args, **{**kwargs, "device": None}).to(kwargs["device"])
        return function(*args, **kwargs)


@contextmanager
def mock_device() -> Iterator[str]:
    """While it lasts there is the device; yields its name.

    In a process that has computed no gradient before: PyTorch counts devices at the first one.
    """
    if not hasattr(torch, NAME):
        registration._setup_privateuseone_for_python_backend(NAME)
    torch.Generator = Generator  # type: ignore[misc]
    try:
        with _Operations(), _Functions():
            yield NAME
    finally:
        torch.Generator = ON_CPU  # type: ignore[misc]


def _run(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = operation._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    asked = kwargs.get("device")
    if name == "aten::copy_":
        there = isinstance(tensors[0], OnDevice)
    elif asked is not None:
        there = torch.device(asked).type == NAME
    else:
        there = any(isinstance(tensor, OnDevice) for tensor in tensors)
    if there and name not in TRANSFERS and any(_misplaced(name, i, tensor) for i, tensor in enumerate(tensors)):
        places = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {places}")
    if there:
        operations.append(name)
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, OnDevice) else leaf, (args, kwargs))
    found = operation(*args, **kwargs)
    return tree_map(lambda leaf: OnDevice(leaf) if there and isinstance(leaf, torch.Tensor) else leaf, found)


def _misplaced(name: str, position: int, tensor: torch.Tensor) -> bool:
    if isinstance(tensor, OnDevice) or tensor.dim() == 0:  # numbers may be anywhere
        return False
    return not (name in INDEXING and position > 0 and tensor.dtype in INDICES)
