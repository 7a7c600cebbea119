"""How a check reports that a requirement is not met."""

from __future__ import annotations

__all__ = ["Failure", "RunFailed"]


class Failure(Exception):
    """A requirement that is not met: what was found, and what would be right.

    Parameters
    ----------
    message
        One line.
    log
        Details, such as a traceback.
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class RunFailed(Failure):
    """The run that a check examines did not finish."""
