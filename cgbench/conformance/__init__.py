"""The conformance suite: what every pair of a method and a system is held to, registered or not."""

from cgbench.conformance.checks import CHECKS, Outcome, run_checks
from cgbench.conformance.pair import Pair
from cgbench.conformance.trace import Failure

__all__ = ["CHECKS", "Failure", "Outcome", "Pair", "run_checks"]
