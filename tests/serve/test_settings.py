from __future__ import annotations

import pytest
import torch

from condiff.guidance import CFG, ResidualCFG
from condiff.recipes import radd, streamdiffusion, vectors
from condiff.serve.settings import Settings, Streamer
from condiff.serve.stream import unchanged


def test_the_schema_has_a_control_with_a_default_for_every_setting(system):
    streamer = Streamer(system)
    controls = streamer.schema()["properties"]
    assert set(controls) == set(Settings.__dataclass_fields__)
    assert all({"title", "default"} <= set(control) for control in controls.values())
    assert controls["cond"]["properties"]["label"]["labels"] == ["cat", "dog", "owl"]
    defaults = {name: control["default"] for name, control in controls.items()}
    assert streamer.changed(streamer.begin, defaults) == streamer.begin


def test_changes_add_up_and_null_takes_a_condition_away(system):
    streamer = Streamer(system)
    one = streamer.changed(streamer.begin, {"cond": {"label": 2}, "steps": 2})
    assert (one.cond, one.steps, one.strength) == ({"label": 2}, 2, 0.64)
    none = streamer.changed(one, {"cond": {"label": None}})
    assert none.cond == {}
    cond = streamer.condition(none, torch.zeros(1, 1, 8, 8))
    assert cond.present["label"].tolist() == [False]
    assert streamer.condition(one, torch.zeros(1, 1, 8, 8)).values["label"].tolist() == [2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ([], ["settings", "object", "list"]),
        ({"strenght": 1}, ["strenght", "strength"]),
        ({"strength": 0}, ["strength", "0.05"]),
        ({"strength": float("nan")}, ["strength", "nan"]),
        ({"strength": "1"}, ["strength"]),
        ({"steps": 2.5}, ["steps", "2.5"]),
        ({"steps": True}, ["steps", "True"]),
        ({"steps": 17}, ["steps", "16"]),
        ({"still": 1}, ["still", "boolean"]),
        ({"guiding": "half"}, ["guiding", "one-time"]),
        ({"cond": {"lable": 1}}, ["lable", "label"]),
        ({"cond": {"label": 3}}, ["label", "2"]),
        ({"cond": {"label": [1]}}, ["label"]),
        ({"cond": 3}, ["cond", "object"]),
        ({"seed": -1}, ["seed"]),
    ],
)
def test_wrong_changes_say_what_is_wrong(system, change, words):
    streamer = Streamer(system)
    with pytest.raises(ValueError) as caught:
        streamer.changed(streamer.begin, change)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_settings_choose_the_guidance(system):
    streamer, begin = Streamer(system), Streamer(system).begin

    def stream(**change):
        return streamer.stream(streamer.changed(begin, change))

    assert isinstance(stream().denoiser, ResidualCFG)
    assert stream(guiding="self").remember is not stream(guiding="one-time").remember
    assert isinstance(stream(guiding="full", guidance=2.0).denoiser, CFG)
    assert stream(guiding="none").denoiser is streamer.system.denoiser
    assert stream(cond={"label": None}).remember is unchanged
    assert stream(strength=0.5, steps=2).times == (0.5, 0.25, 0.0)


def test_systems_that_make_no_pictures_are_refused():
    with pytest.raises(ValueError, match="only systems on noise"):
        Streamer(radd(width=32, depth=1, length=8))
    with pytest.raises(ValueError, match="only images"):
        Streamer(vectors(shape=(4,), width=16))


def test_a_system_without_conditions_has_no_guidance():
    streamer = Streamer(streamdiffusion(shape=(1, 8, 8), size="flat"))
    assert streamer.guiding == ("none",)
    assert streamer.condition(streamer.begin, torch.zeros(1, 1, 8, 8)) is None


def test_numbers_are_in_the_units_of_the_users_file(system):
    """Training standardised them by what is kept with the data; a stream does the same, as `sample` does."""
    from condiff.core import Vector
    from condiff.core.condition import schema_to_json

    about = {"meta": {"conditions": {"size": {"mean": [10.0], "std": [2.0]}}}}
    made = streamdiffusion(shape=(1, 8, 8), size="flat", conditions=schema_to_json({"size": Vector(1)}), about=about)
    streamer = Streamer(made)
    cond = streamer.condition(streamer.changed(streamer.begin, {"cond": {"size": [14.0]}}), torch.zeros(1, 1, 8, 8))
    assert cond.values["size"].tolist() == [[2.0]]
    assert streamer.condition(streamer.begin, torch.zeros(1, 1, 8, 8)).present["size"].tolist() == [False]
