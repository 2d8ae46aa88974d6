from __future__ import annotations

import json

import pytest
import torch

import condiff
from condiff.cli.main import main
from condiff.data import read
from condiff.data.verses import table
from condiff.evaluate.metric import Metric
from condiff.recipes import ctrldiff, diffusia, radd
from condiff.tasks.compare_text import TextPoint, fewest, text_quality


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "genesis.txt"
    path.write_text("\n".join(verse.kjv for verse in table()[:1500]))
    return read(path, length=24)


def babbler(splits):
    """A system that writes real letters and spaces, by their frequency: the bias of the head says so."""
    torch.manual_seed(0)
    system = radd(**radd.measure(splits), width=32, depth=1)
    counts = torch.bincount(splits.train.data.long().flatten(), minlength=257).double() + 1e-6
    with torch.no_grad():
        system.denoiser.net.net.body.out.bias.copy_((counts / counts.sum()).log())
    return system


def test_points_have_their_calls_their_words_and_their_entropy(splits):
    points, held = text_quality(babbler(splits), splits, calls=(2, 24), num_samples=24)
    assert [(p.solver, p.calls) for p in points] == [("ordered", 2), ("ordered", 24), ("ddim", 2), ("ddim", 24)]
    assert all(0.0 <= p.known.value < 0.9 for p in points)
    assert held.known.value > 0.9
    assert all(abs(p.entropy - held.entropy) < 0.6 for p in points)
    assert all(p.perplexity.value > 2 * held.perplexity.value for p in points)  # letters by chance are not likely


def test_what_is_compared_suits_the_process():
    """Diffusion on vectors of tokens has no order of unmasking, so only jumps are compared."""
    heard, splits = [], read("verses", length=16)
    system = diffusia(**{**diffusia.measure(splits), "width": 32, "depth": 1})
    text_quality(system, splits, calls=(2,), num_samples=4, talk=heard.append)
    assert [line.split(",")[0] for line in heard] == ["own", "ddim"]


def point(calls, value, low):
    words = Metric("known_words", value, (low, 1.0), 9, "", "fraction", 0, {})
    return TextPoint("ordered", calls, words, Metric("p", 5.0, (4.0, 6.0), 9, "", "", 0, {"entropy": 4.0}))


def test_the_fewest_calls_within_the_best_ones_interval_are_recommended():
    assert fewest([point(4, 0.5, 0.4), point(16, 0.8, 0.7), point(64, 0.85, 0.79)]).calls == 16
    assert fewest([point(4, 0.5, 0.4), point(64, 0.85, 0.82)]).calls == 64
    with pytest.raises(ValueError, match="enough whole words"):
        fewest([])


def test_a_text_run_is_benched_from_the_command_line(splits, tmp_path, capsys):
    condiff.save(babbler(splits), tmp_path / "t.safetensors")
    words = ["bench", "solvers", str(tmp_path / "t.safetensors"), "--calls", "2,4", "--solvers", "ordered", "-n", "12"]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [row["calls"] for row in facts["rows"]] == [2, 4]
    assert facts["held_out"]["known_words"]["value"] > 0.8
    assert facts["recommendation"]["calls"] in (2, 4)
    assert json.loads((tmp_path / "bench_solvers.json").read_text()) == facts
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "recommended: ordered" in out
    assert "perplexity a byte" in out
    assert "entropy" in out


def test_systems_in_blocks_are_told_apart(splits):
    with pytest.raises(ValueError, match="writes in blocks"):
        text_quality(ctrldiff(width=32, depth=1, length=24), splits)
