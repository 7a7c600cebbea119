"""How a check reports that a requirement is not met."""

from __future__ import annotations

__all__ = ["Failure", "RunFailed"]


class Failure(Exception):
    """A requirement that is not met; the message says what was found, and what is required.

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
