"""The stream experiment, cut to two training steps: it runs end to end, and its verdict reads the rows."""

from __future__ import annotations

import json

import pytest
import torch

from condiff.claims import Row, streamdiffusion
from condiff.cli.main import main
from condiff.nn import UNetSize
from condiff.serve.clip import still_clip

GOOD = {
    "largest difference of stream and alone": 1e-6,
    "calls a frame, stream": 1.0,
    "calls a frame, alone": 4.0,
    "time alone over stream, perceptron": 1.3,
    "time of self over full guidance, large": 0.6,
    "time of one-time over full guidance, large": 0.72,
    "distance to the source, none": 0.1,
    **{f"accuracy, {mode}, scale {scale}": 0.97 for mode in ("self", "one-time") for scale in (1.2, 1.5)},
    **{
        f"distance to the source, {mode}, scale {scale}": value
        for mode, far in (("full", 0.0), ("self", 0.1), ("one-time", 0.05))
        for scale, value in ((1.2, 0.2), (1.5, 0.3 + far))
    },
    "share of a 70 % still clip that is made": 0.6,
    "largest mean error of a frame not made": 0.02,
}


def rows(**changes):
    return [Row(name, value, "", 1, (value, value)) for name, value in {**GOOD, **changes}.items()]


def test_the_verdict_is_a_function_of_the_rows():
    assert streamdiffusion.verdict(rows())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("largest difference of stream and alone", 2e-4),
        ("calls a frame, stream", 2.0),
        ("calls a frame, alone", 1.0),
        ("time alone over stream, perceptron", 1.29),
        ("time of self over full guidance, large", 0.61),
        ("time of one-time over full guidance, large", 0.73),
        ("accuracy, self, scale 1.5", 0.96),
        ("accuracy, one-time, scale 1.2", 0.96),
        ("distance to the source, none", 0.2),
        ("distance to the source, full, scale 1.5", 0.2),
        ("distance to the source, self, scale 1.5", 0.3),
        ("distance to the source, one-time, scale 1.5", 0.3),
        ("share of a 70 % still clip that is made", 0.61),
        ("largest mean error of a frame not made", 0.03),
    ],
)
def test_every_part_of_the_claim_can_fail_it(name, value):
    assert not streamdiffusion.verdict(rows(**{name: value}))


def test_the_clip_stands_still_seven_frames_of_ten():
    clip = still_clip(torch.arange(4.0).reshape(4, 1, 1, 1), 20)
    assert clip.flatten().tolist() == [0.0] * 7 + [0.25, 0.5, 0.75] + [1.0] * 7 + [1.25, 1.5, 1.75]


def test_it_runs_end_to_end(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(streamdiffusion, "LARGE", (UNetSize((8, 16)), 8))
    monkeypatch.setattr(streamdiffusion, "QUICK", streamdiffusion.Budget(1, 2, 20, clip=30, repeats=2))
    assert main(["reproduce", "streamdiffusion", "--quick", "--json", "--out", str(tmp_path / "r")]) == 0
    facts = json.loads(capsys.readouterr().out)
    value = {row["name"]: row["value"] for row in facts["rows"]}
    assert facts["holds"] is False
    assert value["largest difference of stream and alone"] < 1e-4
    counted = [value[f"rows a frame, {mode}"] for mode in ("none", "full", "one-time", "self")]
    assert counted == [4, 8, 5, 4]
    assert (value["calls a frame, stream"], value["calls a frame, alone"]) == (1, 4)
    assert {"none.png", "self.png", "clip.png"} <= {path.name for path in (tmp_path / "r").glob("*.png")}
