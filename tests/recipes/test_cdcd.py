"""CDCD's codecs and times: a codec learned before the network, saved in its file, and a law that learns along."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import condiff
from condiff.cli.main import main
from condiff.codecs import Levels, VectorQuantized, VQAutoencoder
from condiff.data import read
from condiff.recipes import cdcd
from condiff.train import Progress, train

SETTINGS = replace(cdcd.training, steps=3, batch_size=16)


@pytest.fixture(scope="module")
def splits():
    return read("digits8")


def built(splits, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cdcd(**cdcd.measured(splits, **options))


def test_the_data_choose_tokens_and_the_user_may_choose_others(splits):
    plain = cdcd.measured(splits)
    assert (plain["codec"], plain["vocabulary"], plain["length"], plain["size"]) == ("levels", 4, 64, "flat")
    patches = cdcd.measured(splits, codec="patches", vocabulary=32, patch=2)
    assert (len(patches["book"]), patches["vocabulary"], patches["length"]) == (32, 32, 16)
    assert cdcd.measured(splits, codec="vqvae")["length"] == 4
    large = cdcd.measured(read("digits"))
    assert (large["codec"], large["vocabulary"], large["length"]) == ("vqvae", 128, 49)
    assert large["size"] == "transformer"
    for options, kind in (({}, Levels), ({"codec": "patches"}, VectorQuantized), ({"codec": "vqvae"}, VQAutoencoder)):
        system = built(splits, **options)
        assert isinstance(system.codec, kind)
        assert system.codec.encode(splits.test.data[:2]).shape[1:] == system.shape


@pytest.mark.parametrize("codec", ["patches", "vqvae"])
def test_a_folder_of_pictures_is_trained_and_drawn_from_the_command_line(codec, tmp_path, capsys):
    """Colour, sides that 4 divides on one axis only: cells are of 2 pixels."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 255, (10, 12, 3), dtype=np.uint8) // (1 + k)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    run = tmp_path / "run"
    words = [
        "train",
        "cdcd",
        "--data",
        str(tmp_path / "photos"),
        "--out",
        str(run),
        "--steps",
        "2",
        "--batch-size",
        "4",
    ]
    assert main([*words, "--codec", codec, "--codec-steps", "8", "--width", "32", "--vocabulary", "8"]) == 0
    assert main(["sample", str(run), "-n", "2", "--cond", "label=cat", "--steps", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"]
    system = condiff.load(run)
    assert system.shape == (30,)
    assert condiff.sample(system, num_samples=2, num_steps=2).shape == (2, 3, 10, 12)


def test_arguments_written_before_there_was_a_choice_still_mean_patches(splits):
    arguments = cdcd.measured(splits, codec="patches")
    for name in ("codec", "patch", "codec_steps"):
        arguments.pop(name, None)
    assert isinstance(cdcd(**arguments).codec, VectorQuantized)


def test_what_cannot_be_is_refused(splits):
    with pytest.raises(ValueError, match="needs its code book"):
        cdcd(codec="patches")
    with pytest.raises(ValueError, match="codec vqvae is for pictures, but verses holds text"):
        cdcd.measured(read("verses", length=32), codec="vqvae")


def test_the_codec_is_learned_before_the_network_and_saved_with_it(splits, tmp_path):
    system = built(splits, codec="vqvae", patch=2, codec_steps=40)
    fresh = system.codec.encode(splits.test.data)
    progress = Progress.begin(system, SETTINGS)
    list(condiff.fit(system, splits, settings=SETTINGS, progress=progress))
    ids = system.codec.encode(splits.test.data)
    assert not torch.equal(ids, fresh)
    trained = progress.averaged
    book = trained.denoiser.codec.book
    assert torch.equal(book, system.codec.book)  # the average holds the codec as it is, not half way to it
    assert not any("codec" in name for name, _ in trained.denoiser.named_parameters())
    condiff.save(trained, tmp_path / "one.safetensors")
    loaded = condiff.load(tmp_path / "one.safetensors")
    assert torch.equal(loaded.codec.encode(splits.test.data), ids)
    wanted = {"num_samples": 3, "num_steps": 4, "cond": {"label": 3}}
    assert torch.equal(condiff.sample(loaded, **wanted), condiff.sample(trained, **wanted))


def test_a_run_that_goes_on_ends_as_one_that_never_stopped_and_learns_no_second_codec(splits, tmp_path, monkeypatch):
    learned = []
    learn = VQAutoencoder.learn
    monkeypatch.setattr(VQAutoencoder, "learn", lambda self, batches: (learned.append(1), learn(self, batches))[1])
    options = {"codec": "vqvae", "patch": 2, "codec_steps": 8, "times": "loss-aware", "num_train_steps": 4}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    quiet = replace(SETTINGS, steps=6, decay=0.0)
    train(built(splits, **options), splits, out=whole, settings=quiet)
    train(built(splits, **options), splits, out=parts, settings=replace(quiet, steps=3))
    assert len(learned) == 2
    train(built(splits, **options), splits, out=parts, settings=quiet, resume=True)
    assert len(learned) == 2
    one, other = (condiff.load(run).denoiser.state_dict() for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert int(one["times.seen"].sum()) == 6 * 16


def test_times_by_the_loss_weigh_what_they_draw(splits):
    """Once every step has its losses, the law is no more even, and training goes on with finite losses."""
    system = built(splits, times="loss-aware", num_train_steps=4)
    law = system.denoiser.times
    losses = [float(report.loss) for report in condiff.fit(system, splits, settings=replace(SETTINGS, steps=5))]
    assert law.ready
    assert law.weight(torch.tensor(0.1)) is not None
    assert all(0.0 < loss < 20.0 for loss in losses)
