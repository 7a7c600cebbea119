"""Presets and overrides, and the one line for each mistake."""

from __future__ import annotations

import pytest

from cgbench.errors import UserError
from cgbench.running.configuration import config_hash, make_config, preset_facts, preset_folders, preset_names
from cgbench.running.registry import load, names
from cgbench_methods.cgflow import ActiveLearning
from cgbench_methods.md import MolecularDynamics

PUBLISHED = ("aldp", "muller_brown")  # systems that publications of methods use
# no publication of this method on this potential gives settings for a paper preset
WITHOUT_PAPER = {
    ("metadynamics", "aldp"),
    ("metadynamics", "muller_brown"),
    ("opes", "muller_brown"),
    ("parallel_tempering", "aldp"),
    ("parallel_tempering", "muller_brown"),
    ("umbrella", "aldp"),
    ("umbrella", "muller_brown"),
    ("flow_ais_bootstrap", "muller_brown"),
    ("ta_bg", "muller_brown"),
    ("cmt", "aldp"),
    ("cmt", "muller_brown"),
}


@pytest.mark.parametrize("method", names("method"))
@pytest.mark.parametrize("system", names("system"))
def test_all_presets_are_valid(method: str, system: str) -> None:
    cls = load("method", method)
    presets = preset_names(cls, system)
    assert {"smoke", "default"} <= set(presets)
    assert ("paper" in presets) == (system in PUBLISHED and (method, system) not in WITHOUT_PAPER)
    for preset in presets:
        make_config(cls, system, preset)


@pytest.mark.parametrize("method", names("method"))
def test_all_presets_say_whose_algorithm_they_run_and_how_settings_were_chosen(method: str) -> None:
    cls = load("method", method)
    for system, presets in preset_folders(cls).items():
        for preset in presets:
            facts = preset_facts(cls, system, preset)
            assert facts is not None, (system, preset)
            assert facts.chosen or preset == "smoke", (system, preset)
            assert facts.scores != "looked at" or facts.tried_on, (system, preset)


def of_preset(tmp_path, text: str) -> type[MolecularDynamics]:
    class Elsewhere(MolecularDynamics):
        @classmethod
        def presets_folder(cls):
            return tmp_path

    (tmp_path / "any").mkdir()
    (tmp_path / "any" / "default.yaml").write_text(text)
    return Elsewhere


def test_what_a_preset_says_about_itself_is_no_setting(tmp_path) -> None:
    method = of_preset(tmp_path, "about: {algorithm: ours, chosen: by hand}\nwalkers: 3\n")
    facts = preset_facts(method, "aldp", "default")
    assert facts is not None and (facts.algorithm, facts.chosen, facts.scores) == ("ours", "by hand", "not known")
    assert make_config(method, "aldp", "default") == MolecularDynamics.Config(walkers=3)
    assert preset_facts(method, "aldp", "fast") is None
    with pytest.raises(UserError, match="unknown key 'about'"):
        make_config(method, "aldp", "default", ["about.algorithm=ours"])


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("{algorithm: mine}", r"default.yaml, line 1, column 20\): key 'algorithm': .*'ours'.*'mine'"),
        ("{chosen: by hand}", "key 'algorithm': Field required"),
        ("{algorithm: ours, choosen: by hand}", "unknown key 'choosen': did you mean 'chosen'"),
        ("ours", "about of a preset of md .*line 1, column 8"),
    ],
)
def test_mistakes_in_what_a_preset_says_about_itself(tmp_path, about: str, message: str) -> None:
    method = of_preset(tmp_path, f"about: {about}\nwalkers: 3\n")
    for read in (make_config, preset_facts):
        with pytest.raises(UserError, match=message) as caught:
            read(method, "aldp", "default")
        assert "\n" not in str(caught.value)


def test_overrides() -> None:
    config = make_config(
        ActiveLearning, "aldp", "default", ["recipe.training.learning_rate=1e-3", "recipe.atlas.batch=3"]
    )
    assert config.recipe.training.learning_rate == 1e-3 and config.recipe.atlas.batch == 3
    assert config_hash(config) != config_hash(make_config(ActiveLearning, "aldp", "default"))


MISTAKES = {
    "typo": (["walker=3"], "unknown key 'walker': did you mean 'walkers'"),
    "wrong type": (["walkers=many"], "key 'walkers'.*'many'"),
    "out of range": (["walkers=0"], "key 'walkers'.*greater than or equal to 1"),
    "text for a number": (["walkers='3'"], "key 'walkers'"),
    "true for a number": (["walkers=true"], "key 'walkers'"),
    "a fraction for a whole number": (["walkers=2.5"], "key 'walkers'"),
    "no value": (["walkers"], "write key=value"),
    "empty part": (["=3"], "write key=value"),
    "below a value": (["walkers.x=3"], "is a value and has no nested keys"),
    "not YAML": (["walkers=[1"], "is not a YAML value"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_overrides(name: str) -> None:
    overrides, message = MISTAKES[name]
    with pytest.raises(UserError, match=message) as caught:
        make_config(MolecularDynamics, "aldp", "default", overrides)
    assert "\n" not in str(caught.value)


def test_nested_typo_names_the_keys_of_its_place() -> None:
    with pytest.raises(UserError, match="did you mean 'learning_rate'") as caught:
        make_config(ActiveLearning, "aldp", "default", ["recipe.training.learnig_rate=1"])
    assert "steps_per_round" in str(caught.value)


def test_unknown_preset_lists_the_choices() -> None:
    with pytest.raises(UserError, match="unknown preset 'fast' of md on aldp: choose from .*paper"):
        make_config(MolecularDynamics, "aldp", "fast")


def test_a_mistake_in_a_preset_has_its_line(tmp_path) -> None:
    class Elsewhere(MolecularDynamics):
        @classmethod
        def presets_folder(cls):
            return tmp_path

    (tmp_path / "any").mkdir()
    (tmp_path / "any" / "default.yaml").write_text("walkers: 3\nsteps: 1e3\nstride: many\n")
    with pytest.raises(UserError, match=r"default.yaml, line 3, column 9\): key 'stride'"):
        make_config(Elsewhere, "some_molecule", "default")


@pytest.mark.parametrize(
    "text, message", [("[1, 2]", "must be a mapping"), ("a: [", "cannot be read"), ("wlakers: 2", "unknown key")]
)
def test_bad_preset_files(tmp_path, text: str, message: str) -> None:
    class Elsewhere(MolecularDynamics):
        @classmethod
        def presets_folder(cls):
            return tmp_path

    (tmp_path / "aldp").mkdir()
    (tmp_path / "aldp" / "default.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        make_config(Elsewhere, "aldp", "default")


def test_a_method_without_presets_has_its_defaults(tmp_path) -> None:
    class Bare(MolecularDynamics):
        @classmethod
        def presets_folder(cls):
            return tmp_path

    assert preset_names(Bare, "aldp") == ["default"]
    assert make_config(Bare, "aldp", "default") == MolecularDynamics.Config()
