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
from condiff.tasks.assess import sample_like
from condiff.tasks.blocks import rows_in_blocks, write_blocks
from condiff.tasks.compare_text import TextPoint, fewest, text_quality
from condiff.tasks.partition import FixedSize
from condiff.tasks.text import joined, words, write


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


def point(calls, value, low, perplexity=5.0, entropy=4.0):
    words = Metric("known_words", value, (low, 1.0), 9, "", "fraction", 0, {})
    judged = Metric("p", perplexity, (perplexity - 1.0, perplexity + 1.0), 9, "", "", 0, {"entropy": entropy})
    return TextPoint("ordered", calls, words, judged)


def test_the_fewest_calls_within_the_best_ones_interval_are_recommended():
    assert fewest([point(4, 0.5, 0.4), point(16, 0.8, 0.7), point(64, 0.85, 0.79)]).calls == 16
    assert fewest([point(4, 0.5, 0.4), point(64, 0.85, 0.82)]).calls == 64
    with pytest.raises(ValueError, match="enough whole words"):
        fewest([])


def test_a_recommendation_needs_both_numbers_and_no_repetition():
    """Pieces make known words by chance, and what repeats itself is likely."""
    assert fewest([point(4, 0.9, 0.8, 9.0), point(16, 0.9, 0.8, 5.9), point(64, 0.9, 0.8, 5.0)]).calls == 16
    assert fewest([point(4, 0.5, 0.4, 5.0), point(16, 0.9, 0.8, 9.0)]).calls == 4  # no point is good by both
    repeated = [point(2, 0.9, 0.8, 2.0, entropy=3.5), point(16, 0.9, 0.8, 5.0)]
    assert fewest(repeated, point(0, 1.0, 1.0, 2.0, entropy=4.0)).calls == 16
    assert fewest(repeated[:1], point(0, 1.0, 1.0, 2.0, entropy=4.0)).calls == 2


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


@pytest.fixture(scope="module")
def blocks(splits):
    """A system in blocks of 8, untrained but for the frequency of its bytes."""
    torch.manual_seed(0)
    system = ctrldiff(**{**ctrldiff.measure(splits), "width": 32, "depth": 1})
    counts = torch.bincount(splits.train.data.long().flatten(), minlength=257).double() + 1e-6
    with torch.no_grad():
        system.denoiser.net.body.out.bias.copy_((counts / counts.sum()).log())
    return system


def test_text_in_blocks_is_compared_by_their_size_and_steps(blocks, splits):
    points, held = text_quality(blocks, splits, num_samples=24)
    ways = [
        (1, 1),
        (4, 1),
        (4, 2),
        (4, 4),
        (8, 1),
        (8, 2),
        (8, 4),
        (8, 8),
        (16, 1),
        (16, 2),
        (16, 4),
        (16, 8),
        (16, 16),
    ]
    assert [(p.block, p.steps) for p in points] == ways
    # A window of 24: its blocks, each with its steps (the last one of 16 has 8 tokens) and a call that remembers it.
    assert [p.calls for p in points[:8]] == [24 // size * (steps + 1) for size, steps in ways[:8]]
    assert [p.calls for p in points[8:]] == [2 + 2, 4 + 2, 8 + 2, 16 + 2, 16 + 8 + 2]
    assert held.block is None
    assert {p.solver for p in points} == {"own"}


def test_windows_written_in_blocks_are_what_write_blocks_writes(blocks):
    rows, calls = rows_in_blocks(blocks, num_samples=5, block=6, batch_size=2, seed=4, num_steps=3)
    assert rows.shape == (5, 24)
    assert calls == 4 * (3 + 1)
    alone = write_blocks(blocks, num_samples=1, first=3, length=24, policy=FixedSize(6), seed=4, num_steps=3)
    text = torch.cat([part for (part,) in alone])
    assert torch.equal(rows[3, : len(text)], text)
    assert bool((rows[3, len(text) :] == 256).all())


def test_an_evaluation_of_text_in_blocks_judges_what_sample_writes(blocks, splits):
    """Not the window as a single block."""
    drawn, _ = sample_like(blocks, splits.test, 3, guidance_scale=1.0, seed=7)
    assert torch.equal(drawn, rows_in_blocks(blocks, num_samples=3, seed=7)[0])
    texts = joined(write(blocks, num_samples=3, seed=7))
    assert [words(row) for row in drawn] == texts


def test_a_run_in_blocks_is_benched_from_the_command_line(blocks, tmp_path, capsys):
    path = tmp_path / "b.safetensors"
    condiff.save(blocks, path)
    asked = ["bench", "solvers", str(path), "--blocks", "2,8", "--calls", "1,4", "-n", "12"]
    assert main([*asked, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(row["block"], row["steps"], row["calls"]) for row in facts["rows"]] == [(2, 1, 24), (8, 1, 6), (8, 4, 15)]
    assert {"block", "steps", "calls", "why"} <= facts["recommendation"].keys()
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert "block" in out.splitlines()[0]
    assert "recommended: blocks of" in out
    words = ["sample", str(path), "-n", "1", "--steps", "2", "--json", "--out", str(tmp_path / "a.txt")]
    for block in ("2", "8"):
        assert main([*words, "--block", block]) == 0
        assert json.loads(capsys.readouterr().out)["block"] == int(block)
        assert main(["replay", str(tmp_path / "a.txt"), "--run", str(path)]) == 0
        capsys.readouterr()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--top-p", "2"], "top-p needs p in (0, 1], got 2"),
        (["--blocks", "99"], "have 1 to 24 tokens, got 99"),
        (["--blocks", "4", "--calls", "8"], "no block of 4 tokens has room for 8 calls"),
        (["--solvers", "heun", "--blocks", "4"], "solver heun does not suit"),
    ],
)
def test_blocks_that_do_not_fit_get_one_line(blocks, tmp_path, capsys, more, message):
    condiff.save(blocks, tmp_path / "b.safetensors")
    assert main(["bench", "solvers", str(tmp_path / "b.safetensors"), "-n", "10", *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_whole_windows_have_no_blocks(splits, tmp_path, capsys):
    condiff.save(babbler(splits), tmp_path / "t.safetensors")
    for verb in (["bench", "solvers"], ["sample"]):
        more = ["--blocks", "4", "-n", "10"] if verb == ["bench", "solvers"] else ["--block", "4"]
        assert main([*verb, str(tmp_path / "t.safetensors"), *more]) == 2
        assert "whole windows" in capsys.readouterr().err


def test_tails_are_cut_where_asked(blocks, tmp_path, capsys):
    """Of a system that keeps them: hardly any mass leaves the commonest letters, of little entropy."""
    condiff.save(blocks, tmp_path / "b.safetensors")
    entropy = []
    for more in ([], ["--top-p", "0.2"]):
        asked = ["bench", "solvers", str(tmp_path / "b.safetensors"), "--blocks", "8", "--calls", "2", "-n", "40"]
        code = main([*asked, *more, "--json"])
        out = capsys.readouterr().out
        entropy.append(json.loads(out)["rows"][0]["entropy"] if code == 0 else 0.0)
    assert entropy[1] < entropy[0] - 1.0


def test_what_is_for_text_is_refused_elsewhere(tmp_path, capsys):
    from condiff.recipes import vectors

    condiff.save(vectors(), tmp_path / "v.safetensors")
    for flag in ("--blocks", "--top-p"):
        assert main(["bench", "solvers", str(tmp_path / "v.safetensors"), flag, "1"]) == 2
        assert f"{flag} is for runs that write text" in capsys.readouterr().err
