"""cgbench: a benchmark of methods that compute the potential of mean force of a molecule."""

from __future__ import annotations

from typing import Any

__all__ = ["__version__", "load_method", "load_system"]

__version__ = "0.1.0"


def load_system(name: str, *, engine: str | None = None, device: str = "cpu") -> Any:
    """Build the registered system `name` (or ``path/to/file.py:Class``).

    Parameters
    ----------
    engine
        One of the system's engines; its first by default.
    device
        A torch device.

    Returns
    -------
    cgbench.contracts.system.System

    Raises
    ------
    cgbench.errors.UserError
        If there is no such system, or it cannot be loaded.
    """
    from cgbench.running.registry import load

    return load("system", name)(engine=engine, device=device)


def load_method(name: str) -> Any:
    """Return the class of the registered method `name` (or ``path/to/file.py:Class``).

    Raises
    ------
    cgbench.errors.UserError
        If there is no such method, or it cannot be loaded.
    """
    from cgbench.running.registry import load

    return load("method", name)
