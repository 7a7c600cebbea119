"""The conformance suite: what a method and a system must do, registered or not.

`checks` lists the checks by name; `method_contract`, `system_contract`, `coordinates_contract`, `run_contract` and
`isolation` implement them. `pair` makes the runs that they examine, `counter` counts evaluations independently of the
gate, and `side_effects` detects what a run changes outside its folder. Imports `running` and the rooms below it.
"""

from cgbench.conformance.checks import CHECKS, Outcome, run_checks
from cgbench.conformance.failures import Failure
from cgbench.conformance.pair import Pair

__all__ = ["CHECKS", "Failure", "Outcome", "Pair", "run_checks"]
