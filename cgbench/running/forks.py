"""Processes that were forked from one that had computed with threads."""

from __future__ import annotations

import os

from cgbench.errors import UserError

__all__ = ["check_fork", "note_threads"]

_first: int | None = None  # process that was the first to compute with threads; a fork inherits this number


def note_threads() -> None:
    """Note that this process computes with more than one thread."""
    global _first
    if _first is None:
        _first = os.getpid()


def check_fork() -> None:
    """Refuse to compute with threads in a process that was forked from one that did.

    The fork has a copy of the thread pool of PyTorch (OpenMP), but none of its threads: it would wait for them forever.
    With a single thread the pool is not used.

    Raises
    ------
    UserError
        If this process is such a fork.
    """
    if _first not in (None, os.getpid()):
        raise UserError(
            "this process was forked from one that has computed with several threads, and would hang: start it with "
            'the method "spawn" (multiprocessing.get_context("spawn")), or give threads=1'
        )
