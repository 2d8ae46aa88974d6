"""Generated files: units, forms, conditions of every kind, and the recipe inside."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from condiff.cli.made import columns, conditions_for, content, csv_bytes, in_own_units, recipe_of
from condiff.cli.main import main
from condiff.core.condition import Picture, TokenIds
from condiff.data import corpus
from condiff.recipes import images, vectors


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A run trained for two steps on a table whose columns are far from zero mean and unit variance."""
    folder = tmp_path_factory.mktemp("table")
    rows = np.random.default_rng(0).normal((500.0, -3.0), (10.0, 0.01), (80, 2))
    lines = ["height,weight", *(f"{a},{b}" for a, b in rows)]
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    words = ["train", str(folder / "people.csv"), "--out", str(folder / "run"), "--steps", "2", "--batch-size", "8"]
    assert main(words) == 0
    return folder / "run"


def test_csv_is_in_the_units_and_names_of_the_table(table, tmp_path):
    path = tmp_path / "x.csv"
    assert main(["sample", str(table), "-n", "20", "--steps", "2", "--out", str(path)]) == 0
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# condiff {")
    assert lines[1] == "height,weight"
    values = content(path)
    assert values.shape == (20, 2)
    # Two steps of training leave about the unit normal, which is the spread of the table in its own units.
    assert abs(values[:, 0].mean() - 500) < 30
    assert abs(values[:, 1].mean() + 3) < 0.03


def test_csv_and_npz_hold_the_same_numbers(table, tmp_path):
    for name in ("x.csv", "x.npz"):
        assert main(["sample", str(table), "-n", "5", "--steps", "2", "--out", str(tmp_path / name)]) == 0
    np.testing.assert_array_equal(content(tmp_path / "x.csv"), content(tmp_path / "x.npz"))


def test_csv_replays_and_an_edit_is_noticed(table, tmp_path, capsys):
    path = tmp_path / "x.csv"
    main(["sample", str(table), "-n", "3", "--steps", "2", "--out", str(path)])
    capsys.readouterr()
    assert main(["replay", str(path)]) == 0
    assert capsys.readouterr().out.startswith("equal")
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_samples"] == 3
    lines = path.read_text().splitlines()
    first, *rest = lines[2].split(",")
    path.write_text("\n".join([*lines[:2], ",".join([str(float(first) + 100), *rest]), *lines[3:]]) + "\n")
    assert main(["replay", str(path)]) == 1
    assert "edited" in capsys.readouterr().out


def test_a_moved_run_is_found_around_its_samples(table, tmp_path, capsys):
    here = shutil.copytree(table, tmp_path / "here")
    main(["sample", str(here), "-n", "2", "--steps", "2"])
    moved = shutil.move(here, tmp_path / "moved")
    capsys.readouterr()
    assert main(["replay", str(tmp_path / "moved" / "samples" / "sample.npz")]) == 0
    assert moved
    shutil.copy(tmp_path / "moved" / "samples" / "sample.npz", tmp_path / "alone.npz")
    assert main(["replay", str(tmp_path / "alone.npz")]) == 1
    assert "--run" in capsys.readouterr().out
    assert main(["replay", str(tmp_path / "alone.npz"), "--run", str(tmp_path / "moved")]) == 0


@pytest.mark.parametrize("name", ["seed", "form", "weights_sha256"])
def test_a_recipe_that_lacks_something_is_named(table, tmp_path, capsys, name):
    path = tmp_path / "x.csv"
    main(["sample", str(table), "-n", "2", "--steps", "2", "--out", str(path)])
    recipe = recipe_of(path)
    del recipe[name]
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["# condiff " + json.dumps(recipe), *lines[1:]]))
    capsys.readouterr()
    assert main(["replay", str(path)]) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert name in err[0]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "# condiff {\na\n1\n", ""])
def test_a_csv_without_a_recipe(tmp_path, capsys, text):
    path = tmp_path / "x.csv"
    path.write_text(text)
    assert main(["info", str(path)]) == 1
    assert "carries no recipe" in capsys.readouterr().err


def test_numbers_in_a_csv_read_back_exactly(tmp_path):
    samples = torch.randn(7, 2, 2, generator=torch.Generator().manual_seed(0)) * 1e-7
    system = vectors(shape=(2, 2))
    path = tmp_path / "x.csv"
    path.write_bytes(csv_bytes(samples, {"a": 1}, columns(system, (2, 2))))
    assert path.read_text().splitlines()[1] == "x0_0,x0_1,x1_0,x1_1"
    np.testing.assert_array_equal(content(path), samples.flatten(1).numpy())
    assert recipe_of(path) == {"a": 1}


def test_units_undo_what_reading_did():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(in_own_units(x, {"meta": {"range": [-1, 1]}}), x)
    assert torch.equal(in_own_units(x, {"meta": {"scale": 2.0}}), 2.0 * x)
    facts = {"kind": "vectors", "meta": {"mean": [1.0, 2.0, 3.0], "std": [1.0, 10.0, 100.0]}}
    expected = x.double() * torch.tensor([1.0, 10.0, 100.0]) + torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(in_own_units(x, facts), expected.float())
    series = torch.randn(2, 3, 5)
    moved = in_own_units(series, {**facts, "kind": "series"})
    torch.testing.assert_close(moved[:, 2], series[:, 2] * 100.0 + 3.0)


def test_number_conditions_are_taken_in_turn():
    one = vectors(shape=(2,), conditions={"age": {"kind": "Vector", "size": 1}})
    assert conditions_for(one, {"age": ["1", "2.5"]}, range(4)) == {"age": [[1.0], [2.5]]}
    two = vectors(shape=(2,), conditions={"place": {"kind": "Vector", "size": 2}})
    assert conditions_for(two, {"place": ["1", "2", "3", "4"]}, range(4)) == {"place": [[1.0, 2.0], [3.0, 4.0]]}
    with pytest.raises(ValueError, match="2 numbers, got 3"):
        conditions_for(two, {"place": ["1", "2", "3"]}, range(4))
    with pytest.raises(ValueError, match="needs numbers"):
        conditions_for(one, {"age": ["old"]}, range(4))


def test_text_and_picture_conditions(tmp_path):
    spec = {
        "caption": {"kind": "TokenIds", "length": 12, "vocabulary": corpus.VOCABULARY},
        "input": {"kind": "Picture", "channels": 1},
    }
    system = images(shape=(1, 8, 8), conditions=spec, size="tiny")
    assert isinstance(system.schema["caption"], TokenIds)
    assert isinstance(system.schema["input"], Picture)
    for k in (0, 255):
        Image.new("L", (8, 8), k).save(tmp_path / f"{k}.png")
    typed = {"caption": ["red", " round"], "input": [str(tmp_path / "0.png"), str(tmp_path / "255.png")]}
    cond = conditions_for(system, typed, range(1, 4))
    assert corpus.text(cond.values["caption"][0].numpy()) == "red, round"
    assert cond.values["caption"].dtype == torch.int64
    assert cond.values["input"].shape == (3, 1, 8, 8)
    assert [float(row.mean()) for row in cond.values["input"]] == [1.0, -1.0, 1.0]
    assert all(bool(flag.all()) for flag in cond.present.values())
    only = conditions_for(system, {"caption": ["red"]}, range(2))
    assert not bool(only.present["input"].any())
    with pytest.raises(ValueError, match=r"nowhere\.png"):
        conditions_for(system, {"input": ["nowhere.png"]}, range(1))


def test_samples_that_are_not_finite_are_not_written(run, tmp_path, capsys):
    path = tmp_path / "x.npz"
    words = ["sample", str(run), "-n", "2", "--steps", "4", "--guidance-scale", "1e38", "--out", str(path)]
    assert main(words) == 1
    assert "not finite" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["--out", "x.csv"], ".csv"),
        (["--steps", "1000000000"], "100,000"),
        (["-n", "1000000000"], "GiB"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_requests_that_cannot_be_met(words, needle, run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(run), *words]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert needle in err[0]
