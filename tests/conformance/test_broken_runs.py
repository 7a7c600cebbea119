"""The checks of runs fail on a method that breaks them: the example method, each time with one fault."""

from __future__ import annotations

import pytest
import torch

from cgbench.conformance import CHECKS, run_checks
from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench.scoring.referee import Referee

YIELD = "yield PMF(self.problem.cvs, self.weights + 1e-9 * self.weights.max())"
ENERGY = "energy = self.problem.reduced_energy(x)"
LOOP = "while self.round < config.rounds:"
NOISE = 'generator=self.streams.torch("samples"), dtype'
START = "        self.round = 0\n"


def before_the_loop(*lines: str) -> dict[str, str]:
    return {LOOP: "\n        ".join([*lines, LOOP])}


def energy(*lines: str) -> dict[str, str]:
    return {ENERGY: "\n                ".join(lines)}


BROKEN = {
    # counting
    "around": (
        "counting",
        energy("energy = self.problem._system.reduced_energy(x)"),
        "at estimate 1 the ledger has 0 evaluations, but 200 were made: 200 bypassed self.problem",
    ),
    "before-it-starts": (
        "counting",
        {
            START: f"{START}        x = problem.initial_configuration()[None]\n"
            "        self.start = problem._system.reduced_energy_and_gradient(x)\n"
        },
        "1 bypassed self.problem",
    ),
    "kept-function": (
        "counting",
        {START: f"{START}        self.own = problem._system.reduced_energy_and_gradient\n"}
        | energy("energy = self.own(x)[0]"),
        "200 bypassed self.problem",
    ),
    "after-the-last": (
        "counting",
        {YIELD: f"{YIELD}\n        self.problem._system.reduced_energy(x[:7])"},
        "at the end the ledger has 600 evaluations, but 607 were made",
    ),
    "no-phase": ("counting", {'with self.problem.phase("sample"):': "if True:"}, "600 evaluations in no phase"),
    "false-charge": (
        "counting",
        energy(ENERGY, "self.problem._ledger.charge(5)"),
        "has 205 evaluations, but only 200 were",
    ),
    "no-energy": ("counting", energy("energy = x[:, 0]"), "no energy was evaluated at all"),
    # the same bits
    "clock": (
        "determinism",
        {"self.round += 1": "self.round += 1; import time; self.weights += time.time()"},
        "a second run with the same seed has a different curve from row 1",
    ),
    "global-generator": ("determinism", {NOISE: "dtype"}, "a second run with the same seed has a different curve"),
    "seedless": (
        "determinism",
        {NOISE: "generator=torch.Generator().manual_seed(self.round), dtype"},
        "seeds 0 and 1 give the same bits; all random numbers must come from self.streams",
    ),
    "number-of-evaluations": (
        "determinism",
        energy(ENERGY, "import os", 'if os.environ["HOME"][-6] == "2":', "    self.problem.reduced_energy(x[:1])"),
        "has 603 evaluations {'sample': 603}, not 600",
    ),
    # going on
    "half-a-state": (
        "resume",
        {'state["weights"].numpy()': "self.weights"},
        "killed after estimate 1 of 3 and resumed",
    ),
    "own-generator": (
        "resume",
        {
            START: f"{START}        self.own = torch.Generator().manual_seed(streams.seed)\n",
            NOISE: "generator=self.own, dtype",
        },
        "a run has a different curve from row 2 on; does state_dict() hold everything",
    ),
    "forgotten-round": (
        "resume",
        {'self.round = state["weights"].numpy(), int(state["round"])': 'self.round = state["weights"].numpy(), 0'},
        "and resumed, a run has 800 evaluations",
    ),
    "late-state": (
        "resume",
        {'"round": self.round}': '"round": min(self.round, 1)}'},
        "killed after estimate 2 of 3 and resumed, a run has 800 evaluations",
    ),
    "bad-load": (
        "resume",
        {'int(state["round"])': 'state["rounds"]'},
        "does not fit this version of the code (KeyError: 'rounds')",
    ),
    "evaluates-when-loaded": (
        "resume",
        {
            '"""Take it back."""': '"""Take it back."""; x = self.problem.initial_configuration()[None]; '
            "self.problem._system.reduced_energy(x)"
        },
        "makes 401 more evaluations, not 400",
    ),
    # budgets
    "swallowed": (
        "budget",
        energy("try:", f"    {ENERGY}", "except BaseException:", "    return"),
        "the method must not catch BudgetExhausted",
    ),
    "gone-on": (
        "budget",
        energy("try:", f"    {ENERGY}", "except Exception:", "    energy = self.problem._system.reduced_energy(x)"),
        "with a budget of 1, 600 evaluations were made",
    ),
    "stops-early": (
        "budget",
        {LOOP: "while self.round < config.rounds and (not self.round or self.problem.remaining != 1):"},
        "with a budget of 401, the run ends as 'finished' (None), not as 'budget'",
    ),
    "other-result": (
        "budget",
        {"self.round += 1": "self.round += 1; self.weights += (self.problem.remaining or 0)"},
        "the estimates differ from those without a budget",
    ),
    # the truth
    "cheat": (
        "blindness",
        {YIELD: "yield self.problem._system.reference().pmf"},
        "with another reference, the run ends with a different pmf.npz; a method must not use the reference",
    ),
    "stops-at-truth": (
        "blindness",
        {
            LOOP: "true = self.problem._system.reference().pmf.probability\n        "
            "while self.round < config.rounds and not (self.round and true[50] < true[49]):"
        },
        "with another reference, the run takes ",
    ),
    "asks": (
        "blindness",
        before_the_loop("self.problem._system.reference()"),
        "with a reference that cannot be read (PermissionError), the run ends as 'failed': PermissionError",
    ),
    "falls-back": (
        "blindness",
        before_the_loop(
            "try:", "    self.problem._system.reference_samples()", "except PermissionError:", "    self.weights += 1.0"
        ),
        "(PermissionError), the run ends with a different pmf",
    ),
    # what is everybody's
    "torch-seed": ("global-state", before_the_loop("torch.manual_seed(0)"), "changes torch's global random generator;"),
    "numpy-draw": ("global-state", before_the_loop("np.random.random()"), "changes numpy's global random generator;"),
    "python-draw": (
        "global-state",
        before_the_loop("import random; random.random()"),
        "changes python's global random",
    ),
    "dtype": ("global-state", before_the_loop("torch.set_default_dtype(torch.float64)"), "torch's default dtype"),
    "threads": ("global-state", before_the_loop("torch.set_num_threads(2)"), "torch's number of threads"),
    "deterministic": (
        "global-state",
        before_the_loop("torch.use_deterministic_algorithms(True)"),
        "deterministic algo",
    ),
    "cudnn": ("global-state", before_the_loop("torch.backends.cudnn.benchmark = True"), "torch's cudnn flags"),
    "precision": ("global-state", before_the_loop('torch.set_float32_matmul_precision("medium")'), "matmul precision"),
    "gradients": ("global-state", {START: f"{START}        torch.set_grad_enabled(False)\n"}, "torch's gradient mode"),
    "errors": ("global-state", before_the_loop('np.seterr(all="raise")'), "numpy's handling of floating-point errors"),
    "environment": ("global-state", before_the_loop('import os; os.environ["X"] = "1"'), "changes the environment;"),
    "folder": ("global-state", before_the_loop('import os; os.chdir("..")'), "changes the working directory;"),
    # files
    "note": ("files", before_the_loop('open("notes.txt", "w").close()'), "notes.txt in the working directory"),
    "cache": (
        "files",
        before_the_loop('from pathlib import Path; (Path.home() / ".cache").mkdir()'),
        ".cache in the home folder",
    ),
    "litter": (
        "files",
        before_the_loop("import tempfile; tempfile.mkdtemp(prefix='litter')"),
        "in the folder for temporary files",
    ),
    "removal": (
        "files",
        before_the_loop(
            "import os, contextlib", "with contextlib.suppress(OSError):", "    os.remove('/nowhere/at-all')"
        ),
        "writes /nowhere/at-all",
    ),
    "elsewhere": (
        "files",
        before_the_loop(
            "from pathlib import Path",
            "other = Path(__file__).with_name('other')",
            "other.write_text('')",
            "other.unlink()",
        ),
        "/other; its only output is",
    ),
}


@pytest.mark.parametrize(("name", "changes", "words"), BROKEN.values(), ids=BROKEN)
def test_a_fault_is_found_and_told(name: str, changes: dict[str, str], words: str, check_example) -> None:
    outcome = check_example(name, changes)
    assert not outcome.passed
    assert words in outcome.detail
    assert "\n" not in outcome.detail


def test_the_example_itself_has_no_fault(example_pair) -> None:
    outcomes = list(run_checks(example_pair({})))
    assert [outcome.name for outcome in outcomes] == list(CHECKS)
    assert all(outcome.passed for outcome in outcomes), outcomes


def test_threads_that_the_harness_sets_are_no_fault(check_example) -> None:
    torch.set_num_threads(2)
    outcome = check_example("global-state", {})
    assert outcome.passed, outcome.detail


def test_temporary_files_that_are_gone_are_no_fault(check_example) -> None:
    lines = ("import tempfile", "with tempfile.NamedTemporaryFile() as file:", "    file.write(b'x')")
    outcome = check_example("files", before_the_loop(*lines))
    assert outcome.passed, outcome.detail


@pytest.mark.parametrize(("name", "secret"), [("truth", None), ("system", "_system")])
def test_a_problem_that_leads_to_the_truth_is_found(name: str, secret: str | None, check_example, monkeypatch) -> None:
    monkeypatch.setattr(Problem, name, property(lambda problem: secret and getattr(problem, secret)), raising=False)
    outcome = check_example("blindness", {})
    assert not outcome.passed and f"{name!r} to" in outcome.detail or f"Problem.{name} is a" in outcome.detail


def test_scores_without_a_reference_are_found(check_example, monkeypatch) -> None:
    monkeypatch.setattr(Referee, "score", lambda referee, pmf: dict.fromkeys(referee.metric_names, 0.0))
    outcome = check_example("blindness", {})
    assert not outcome.passed and "the run still has scores: forward_kld" in outcome.detail


def test_a_ledger_that_lets_one_more_through_is_found(check_example, monkeypatch) -> None:
    charge = Ledger.charge

    def late(ledger: Ledger, evaluations: int, gradient: bool = True) -> None:
        kept, ledger.budget = ledger.budget, ledger.budget and ledger.budget + 200
        charge(ledger, evaluations, gradient)
        ledger.budget = kept

    monkeypatch.setattr(Ledger, "charge", late)
    outcome = check_example("budget", {})
    assert not outcome.passed and "with a budget of 1, 200 evaluations were made" in outcome.detail
