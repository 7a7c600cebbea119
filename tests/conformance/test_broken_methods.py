"""The checks of what a method is and returns fail on a method that breaks them: the example, each time with a fault."""

from __future__ import annotations

import pytest

from cgbench.conformance import run_checks

STATE = '{"weights": torch.from_numpy(self.weights), "round": self.round}'
YIELD = "yield PMF(self.problem.cvs, self.weights + 1e-9 * self.weights.max())"
LOOP = "while self.round < config.rounds:"
METHOD = "    def state_dict(self)"
REST = "self.problem.cvs, self.weights + 1.0"


def method(line: str) -> dict[str, str]:
    """A further method of the class."""
    return {METHOD: f"    {line}\n\n{METHOD}"}


BROKEN = {
    "numpy-state": (
        "method",
        {STATE: '{"weights": self.weights}'},
        "state_dict()['weights'] at estimate 1 is a numpy.nd",
    ),
    "numpy-scalar-state": (
        "method",
        {STATE: '{"a": [np.int64(1)]}'},
        "state_dict()['a'][0] at estimate 1 is a numpy.int64",
    ),
    "set-as-state": ("method", {STATE: '{"a": {1, 2}}'}, "is a builtins.set; checkpoints hold tensors"),
    "list-as-state": ("method", {STATE: "[1]"}, "is a list, not a dict"),
    "odd-key-in-state": (
        "method",
        {STATE: '{"a": {Mapping: 1}}'},
        "a key of state_dict()['a'] at estimate 1 is a abc.",
    ),
    "code-in-state": (
        "method",
        {STATE: '{"a": Mine([1])}', "class PriorSampling(": "class Mine(list):\n    pass\n\n\nclass PriorSampling("},
        "cannot be stored and loaded without running code",
    ),
    "config": (
        "method",
        {"import Field": "import BaseModel, Field", "Config(MethodConfig)": "Config(BaseModel)"},
        "derive it from cgbench.contracts.method.MethodConfig",
    ),
    "name": ("method", {'name = "prior_sampling"': 'name = "prior sampling"'}, "'prior sampling' cannot name a folder"),
    "no-pmf": ("method", {YIELD: "yield self.weights"}, "yields a ndarray, not a cgbench.contracts.pmf.PMF"),
    "other-grid": (
        "method",
        {
            YIELD: "from dataclasses import replace\n"
            "            yield PMF(replace(self.problem.cvs, bins=(50,)), np.ones(50))"
        },
        "over those of self.problem",
    ),
    "no-estimate": ("method", {LOOP: "while False:"}, "ends without an estimate"),
    "exception": (
        "method",
        {YIELD: f"{YIELD}\n            1 / (2 - self.round)"},
        "fails after 2 estimates: ZeroDivisionError: division by zero (broken.py, line ",
    ),
    "diagnostics": (
        "method",
        method("def diagnostics(self): return {'ess': torch.ones(2)}"),
        "diagnostics()['ess'] at estimate 1 cannot be written as JSON: Object of type Tensor",
    ),
    "diagnostics-list": ("method", method("def diagnostics(self): return [1]"), "is not a dict with strings as keys"),
    "extra-arrays": (
        "method",
        method("def extra_arrays(self): return {'probability': self.weights}"),
        "would replace probability of pmf.npz",
    ),
    "extra-lists": (
        "method",
        method("def extra_arrays(self): return {'weights': [1.0]}"),
        "is a list, not a numpy array",
    ),
    "share": (
        "method",
        method(
            "def auxiliary_estimates(self): from cgbench.contracts.method import AuxiliaryEstimate as S; "
            f"return [S('a', 0, 1.5, PMF({REST}))]"
        ),
        "auxiliary estimate 'a' at estimate 1 has share 1.5",
    ),
    "side": (
        "method",
        method(f"def auxiliary_estimates(self): return [PMF({REST})]"),
        "holds a PMF, not a cgbench.contracts.method.AuxiliaryEstimate",
    ),
    "zero": (
        "pmf",
        {YIELD: "yield PMF(self.problem.cvs, np.maximum(np.arange(100.0) - 4.0, 0.0))"},
        "estimate 1 is not positive in 5 of 100 bins; a histogram needs a pseudocount",
    ),
    "no-sum": (
        "pmf",
        {YIELD: f"pmf = PMF({REST})\n            pmf.probability[:] *= 2\n            yield pmf"},
        "sum to ",
    ),
    "nan": (
        "pmf",
        {YIELD: f"pmf = PMF({REST})\n            pmf.probability[3] = np.nan\n            yield pmf"},
        "not finite in 1 of 100 bins",
    ),
    "nan-std": (
        "pmf",
        {YIELD: f"yield PMF({REST}, np.full(100, np.nan))"},
        "free_energy_std of estimate 1 must be finite",
    ),
    "no-pmf-to-look-at": ("pmf", {YIELD: "yield None"}, "there is no PMF to check"),
}


@pytest.mark.parametrize(("name", "changes", "words"), BROKEN.values(), ids=BROKEN)
def test_a_fault_is_found_and_told(name: str, changes: dict[str, str], words: str, check_example) -> None:
    outcome = check_example(name, changes)
    assert not outcome.passed
    assert words in outcome.detail
    assert "\n" not in outcome.detail


def test_all_presets_must_be_valid(tmp_path, check_example) -> None:
    folder = tmp_path / "presets" / "muller_brown"
    folder.mkdir(parents=True)
    (folder / "smoke.yaml").write_text("rounds: 2\nsamples_per_bin: 1\nwidth: 8\n")
    (folder / "default.yaml").write_text("round: 2\n")
    outcome = check_example("method", {}, ())
    assert (
        not outcome.passed
        and "default.yaml, line 1, column 8): unknown key 'round': did you mean 'rounds'?" in outcome.detail
    )


def test_a_run_that_fails_is_told_once(example_pair) -> None:
    outcomes = {outcome.name: outcome for outcome in run_checks(example_pair({YIELD: "raise ValueError('no')"}))}
    assert [name for name, outcome in outcomes.items() if outcome.passed] == ["system"]
    assert outcomes["counting"].detail == "the run ends as 'failed': ValueError: no"
    assert outcomes["files"].detail == "no complete run to examine, see above"
    assert "Traceback" in outcomes["method"].log and "broken.py" in outcomes["counting"].log
