"""Every check fails on a method that breaks what it checks: the example method, each time with one fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cgbench.conformance import Outcome, Pair, run_checks
from cgbench.method import Problem
from cgbench.referee import Referee

EXAMPLE = Path(__file__).parent.parent / "examples" / "prior_sampling.py"
SMALL = ("width=8", "rounds=3", "samples_per_bin=2")

STATE = '{"weights": torch.from_numpy(self.weights), "round": self.round}'
YIELD = "yield PMF(self.problem.cvs, self.weights + 1e-9 * self.weights.max())"
ENERGY = "energy = self.problem.reduced_energy(x)"
LOOP = "while self.round < config.rounds:"
NOISE = 'generator=self.streams.torch("samples"), dtype'
START = "        self.round = 0\n"
METHOD = "    def state_dict(self)"


def method(line: str) -> dict[str, str]:
    """A further method of the class."""
    return {METHOD: f"    {line}\n\n{METHOD}"}


def before_the_loop(*lines: str) -> dict[str, str]:
    return {LOOP: "\n        ".join([*lines, LOOP])}


def energy(*lines: str) -> dict[str, str]:
    return {ENERGY: "\n                ".join(lines)}


def mutant(tmp_path: Path, changes: dict[str, str]) -> str:
    """The example method with changes, as a name that cgbench understands."""
    source = EXAMPLE.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    path = tmp_path / "broken.py"
    path.write_text(source, encoding="utf-8")
    return f"{path}:PriorSampling"


def check(name: str, tmp_path: Path, changes: dict[str, str], overrides: Any = SMALL) -> Outcome:
    pair = Pair("muller_brown", mutant(tmp_path, changes), tmp_path / "runs", overrides=overrides)
    (outcome,) = run_checks(pair, [name])
    return outcome


REST = "self.problem.cvs, self.weights + 1.0"
BROKEN = {
    # what a method is, and what it returns
    "numpy-state": ("method", {STATE: '{"weights": self.weights}'}, "state_dict()['weights'] at estimate 1 is a numpy.nd"),
    "numpy-scalar-state": ("method", {STATE: '{"a": [np.int64(1)]}'}, "state_dict()['a'][0] at estimate 1 is a numpy.int64"),
    "set-as-state": ("method", {STATE: '{"a": {1, 2}}'}, "is a builtins.set; checkpoints hold tensors"),
    "list-as-state": ("method", {STATE: "[1]"}, "is a list, not a dict"),
    "odd-key-in-state": ("method", {STATE: '{"a": {Mapping: 1}}'}, "a key of state_dict()['a'] at estimate 1 is a abc."),
    "code-in-state": ("method", {STATE: '{"a": Mine([1])}', "class PriorSampling(": "class Mine(list):\n    pass\n\n\n"
                      "class PriorSampling("}, "cannot be stored and loaded without code"),
    "config": ("method", {"import Field": "import BaseModel, Field", "Config(MethodConfig)": "Config(BaseModel)"},
               "derive it from cgbench.method.MethodConfig"),
    "name": ("method", {'name = "prior_sampling"': 'name = "prior sampling"'}, "'prior sampling' cannot name a folder"),
    "no-pmf": ("method", {YIELD: "yield self.weights"}, "yields a ndarray, not a cgbench.pmf.PMF"),
    "other-grid": ("method", {YIELD: "from dataclasses import replace\n"
                   "            yield PMF(replace(self.problem.cvs, bins=(50,)), np.ones(50))"}, "over self.problem.cvs"),
    "no-estimate": ("method", {LOOP: "while False:"}, "ends without an estimate"),
    "exception": ("method", {YIELD: f"{YIELD}\n            1 / (2 - self.round)"},
                  "fails after 2 estimates: ZeroDivisionError: division by zero (broken.py, line "),
    "diagnostics": ("method", method("def diagnostics(self): return {'ess': torch.ones(2)}"),
                    "diagnostics()['ess'] at estimate 1 is not JSON-able: Object of type Tensor"),
    "diagnostics-list": ("method", method("def diagnostics(self): return [1]"), "no dict with names as keys"),
    "extra-arrays": ("method", method("def extra_arrays(self): return {'probability': self.weights}"),
                     "would replace probability of pmf.npz"),
    "extra-lists": ("method", method("def extra_arrays(self): return {'weights': [1.0]}"), "is a list, not a numpy array"),
    "share": ("method", method("def side_estimates(self): from cgbench.method import SideEstimate as S; "
              f"return [S('a', 0, 1.5, PMF({REST}))]"), "side estimate 'a' at estimate 1 has share 1.5"),
    "side": ("method", method(f"def side_estimates(self): return [PMF({REST})]"), "holds a PMF, not a cgbench.method.Side"),
    # the PMF
    "zero": ("pmf", {YIELD: "yield PMF(self.problem.cvs, np.maximum(np.arange(100.0) - 4.0, 0.0))"},
             "estimate 1 is not positive in 5 of 100 bins; a histogram needs a pseudocount"),
    "no-sum": ("pmf", {YIELD: f"pmf = PMF({REST})\n            pmf.probability[:] *= 2\n            yield pmf"},
               "sum to "),
    "nan": ("pmf", {YIELD: f"pmf = PMF({REST})\n            pmf.probability[3] = np.nan\n            yield pmf"},
            "not finite in 1 of 100 bins"),
    "nan-std": ("pmf", {YIELD: f"yield PMF({REST}, np.full(100, np.nan))"}, "free_energy_std of estimate 1 must be finite"),
    "no-pmf-to-look-at": ("pmf", {YIELD: "yield None"}, "there is no PMF to look at"),
    # counting
    "around": ("counting", energy("energy = self.problem._system.reduced_energy(x)"),
               "at estimate 1 the ledger has 0 evaluations, but 200 were made: 200 went around"),
    "before-it-starts": ("counting", {START: f"{START}        x = problem.initial_configuration()[None]\n"
                         "        self.start = problem._system.reduced_energy_and_gradient(x)\n"}, "1 went around"),
    "kept-function": ("counting", {START: f"{START}        self.own = problem._system.reduced_energy_and_gradient\n"}
                      | energy("energy = self.own(x)[0]"), "200 went around"),
    "after-the-last": ("counting", {YIELD: f"{YIELD}\n        self.problem._system.reduced_energy(x[:7])"},
                       "at the end the ledger has 600 evaluations, but 607 were made"),
    "no-phase": ("counting", {'with self.problem.phase("sample"):': "if True:"}, "600 evaluations in no phase"),
    "false-charge": ("counting", energy(ENERGY, "self.problem._ledger.charge(5)"), "has 205 evaluations, but only 200 were"),
    "no-energy": ("counting", energy("energy = x[:, 0]"), "no energy was evaluated at all"),
    # the same bits
    "clock": ("determinism", {"self.round += 1": "self.round += 1; import time; self.weights += time.time()"},
              "a second run with the same seed has another curve from row 1"),
    "global-generator": ("determinism", {NOISE: "dtype"}, "a second run with the same seed has another curve"),
    "seedless": ("determinism", {NOISE: "generator=torch.Generator().manual_seed(self.round), dtype"},
                 "seeds 0 and 1 give the same bits; all random numbers must come from self.streams"),
    "number-of-evaluations": ("determinism", energy(ENERGY, "import os", 'if os.environ["HOME"][-6] == "2":',
                              "    self.problem.reduced_energy(x[:1])"), "has 603 evaluations {'sample': 603}, not 600"),
    # going on
    "half-a-state": ("resume", {'state["weights"].numpy()': "self.weights"}, "killed after estimate 1 of 3 and resumed"),
    "own-generator": ("resume", {START: f"{START}        self.own = torch.Generator().manual_seed(streams.seed)\n",
                      NOISE: "generator=self.own, dtype"}, "a run has another curve from row 2 on; is in state_dict() all"),
    "forgotten-round": ("resume", {'self.round = state["weights"].numpy(), int(state["round"])':
                        'self.round = state["weights"].numpy(), 0'}, "and resumed, a run has 800 evaluations"),
    "bad-load": ("resume", {'int(state["round"])': 'state["rounds"]'}, "does not end: the run fails: KeyError: 'rounds'"),
    "diary": ("resume", method("def diary(self): pass") | {"        self.weights, self.round = state":
              "        self.problem._system.reduced_energy(self.problem.initial_configuration()[None])\n"
              "        self.weights, self.round = state"}, "makes 401 more evaluations, not 400"),
    # budgets
    "swallowed": ("budget", energy("try:", f"    {ENERGY}", "except BaseException:", "    return"),
                  "BudgetExhausted must be let through"),
    "gone-on": ("budget", energy("try:", f"    {ENERGY}", "except Exception:",
                "    energy = self.problem._system.reduced_energy(x)"), "with a budget of 1, 600 evaluations were made"),
    "stops-early": ("budget", {LOOP: "while self.round < config.rounds and self.problem.remaining != 1:"},
                    "with a budget of 401, the run ends as 'finished' (None), not as 'budget'"),
    "other-result": ("budget", {"self.round += 1": "self.round += 1; self.weights += (self.problem.remaining or 0)"},
                     "the estimates are not those of the run without one"),
    # the truth
    "cheat": ("blindness", {YIELD: "yield self.problem._system.reference().pmf"},
              "with another reference, the run ends with another pmf.npz; a method may not see the truth"),
    "stops-at-truth": ("blindness", {LOOP: "true = self.problem._system.reference().pmf.probability\n        "
                       "while self.round < config.rounds and not (self.round and true[50] < true[49]):"},
                       "with another reference, the run takes "),
    "asks": ("blindness", before_the_loop("self.problem._system.reference()"),
             "with a reference that cannot be read (PermissionError), the run ends as 'failed': PermissionError"),
    "falls-back": ("blindness", before_the_loop("try:", "    self.problem._system.reference_samples()",
                   "except PermissionError:", "    self.weights += 1.0"), "(PermissionError), the run ends with another pmf"),
    # what is everybody's
    "torch-seed": ("global-state", before_the_loop("torch.manual_seed(0)"), "changes torch's global random generator;"),
    "numpy-draw": ("global-state", before_the_loop("np.random.random()"), "changes numpy's global random generator;"),
    "python-draw": ("global-state", before_the_loop("import random; random.random()"), "changes python's global random"),
    "dtype": ("global-state", before_the_loop("torch.set_default_dtype(torch.float64)"), "torch's default dtype"),
    "threads": ("global-state", before_the_loop("torch.set_num_threads(2)"), "torch's number of threads"),
    "deterministic": ("global-state", before_the_loop("torch.use_deterministic_algorithms(True)"), "deterministic algo"),
    "cudnn": ("global-state", before_the_loop("torch.backends.cudnn.benchmark = True"), "torch's cudnn flags"),
    "precision": ("global-state", before_the_loop('torch.set_float32_matmul_precision("medium")'), "matmul precision"),
    "gradients": ("global-state", {START: f"{START}        torch.set_grad_enabled(False)\n"}, "torch's gradient mode"),
    "errors": ("global-state", before_the_loop('np.seterr(all="raise")'), "numpy's treatment of floating-point errors"),
    "environment": ("global-state", before_the_loop('import os; os.environ["X"] = "1"'), "changes the environment;"),
    "folder": ("global-state", before_the_loop('import os; os.chdir("..")'), "changes the working directory;"),
    # files
    "note": ("files", before_the_loop('open("notes.txt", "w").close()'), "notes.txt in the working directory"),
    "cache": ("files", before_the_loop('from pathlib import Path; (Path.home() / ".cache").mkdir()'),
              ".cache in the home folder"),
    "litter": ("files", before_the_loop("import tempfile; tempfile.mkdtemp(prefix='litter')"),
               "in the folder for temporary files"),
    "removal": ("files", before_the_loop("import os, contextlib", "with contextlib.suppress(OSError):",
                "    os.remove('/nowhere/at-all')"), "writes /nowhere/at-all"),
    "elsewhere": ("files", before_the_loop("from pathlib import Path", "other = Path(__file__).with_name('other')",
                  "other.write_text('')", "other.unlink()"), "/other; it may only write"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "words"), BROKEN.values(), ids=BROKEN)
def test_a_fault_is_found_and_told(name: str, changes: dict[str, str], words: str, tmp_path) -> None:
    outcome = check(name, tmp_path, changes)
    assert not outcome.passed
    assert words in outcome.detail
    assert "\n" not in outcome.detail


@pytest.mark.parametrize("name", ["method", "pmf", "counting", "determinism", "resume", "budget", "blindness", "files"])
def test_the_example_itself_has_no_fault(name: str, tmp_path) -> None:
    outcome = check(name, tmp_path, {})
    assert outcome.passed, outcome.detail


def test_temporary_files_that_are_gone_are_no_fault(tmp_path) -> None:
    lines = ("import tempfile", "with tempfile.NamedTemporaryFile() as file:", "    file.write(b'x')")
    outcome = check("files", tmp_path, before_the_loop(*lines))
    assert outcome.passed, outcome.detail


def test_all_presets_must_be_valid(tmp_path) -> None:
    folder = tmp_path / "presets" / "muller_brown"
    folder.mkdir(parents=True)
    (folder / "smoke.yaml").write_text("rounds: 2\nsamples_per_bin: 1\nwidth: 8\n")
    (folder / "default.yaml").write_text("round: 2\n")
    outcome = check("method", tmp_path, {}, ())
    assert not outcome.passed and "default.yaml): unknown key 'round': did you mean 'rounds'?" in outcome.detail


def test_a_run_that_fails_is_told_once(tmp_path) -> None:
    pair = Pair("muller_brown", mutant(tmp_path, {YIELD: "raise ValueError('no')"}), tmp_path / "runs", overrides=SMALL)
    outcomes = {outcome.name: outcome for outcome in run_checks(pair)}
    assert [name for name, outcome in outcomes.items() if outcome.passed] == ["system"]
    assert outcomes["counting"].detail == "the run ends as 'failed': ValueError: no"
    assert outcomes["files"].detail == "there is no whole run to look at, as above"
    assert "Traceback" in outcomes["method"].log and "broken.py" in outcomes["counting"].log


@pytest.mark.parametrize(("name", "secret"), [("truth", None), ("system", "_system")])
def test_a_problem_that_leads_to_the_truth_is_found(name: str, secret: str | None, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Problem, name, property(lambda problem: secret and getattr(problem, secret)), raising=False)
    outcome = check("blindness", tmp_path, {})
    assert not outcome.passed and f"{name!r} to" in outcome.detail or f"Problem.{name} is a" in outcome.detail


def test_scores_without_a_reference_are_found(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Referee, "score", lambda referee, pmf: dict.fromkeys(referee.metric_names, 0.0))
    outcome = check("blindness", tmp_path, {})
    assert not outcome.passed and "the run still has scores: forward_kld" in outcome.detail


def test_a_ledger_that_lets_one_more_through_is_found(tmp_path, monkeypatch) -> None:
    from cgbench.ledger import Ledger

    charge = Ledger.charge

    def late(ledger: Ledger, evaluations: int) -> None:
        kept, ledger.budget = ledger.budget, ledger.budget and ledger.budget + 200
        charge(ledger, evaluations)
        ledger.budget = kept

    monkeypatch.setattr(Ledger, "charge", late)
    outcome = check("budget", tmp_path, {})
    assert not outcome.passed and "with a budget of 1, 200 evaluations were made" in outcome.detail


