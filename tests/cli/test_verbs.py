"""What each verb does when asked rightly."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from cli.conftest import TINY
from PIL import Image

from condiff.cli.main import main


def answer(capsys, *words):
    assert main([*words, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_a_run_folder_holds_what_the_contract_says(run):
    for name in ("config.yaml", "metrics.jsonl", "model.safetensors", "loss.png", "report.html", "samples"):
        assert (run / name).exists(), name
    files = {path.name for path in (run / "checkpoint-3").iterdir()}
    assert files == {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert "validation_loss" in lines[-1]


def test_systems_lists_recipes_and_experiments(capsys):
    rows = answer(capsys, "systems")["systems"]
    assert {"slug", "title", "year", "modality", "recipe", "claim", "experiment"} == rows[0].keys()
    assert {row["slug"]: row["experiment"] for row in rows}["digits"] is True


def test_one_file_is_enough_to_sample(run, tmp_path, capsys):
    alone = shutil.copy(run / "model.safetensors", tmp_path / "alone.safetensors")
    facts = answer(capsys, "sample", str(alone), "-n", "4", "--steps", "2", "--out", str(tmp_path / "x.npz"))
    assert facts["calls"] == 3  # two steps, the first of which is a midpoint step
    with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
        assert arrays["samples"].shape == (4, 1, 28, 28)


def test_samples_do_not_depend_on_the_batch_size_and_replay(run, tmp_path, capsys):
    for name, size in (("a", "4"), ("b", "3")):
        main(
            [
                "sample",
                str(run),
                "-n",
                "4",
                "--steps",
                "2",
                "--batch-size",
                size,
                "--out",
                str(tmp_path / f"{name}.npz"),
            ]
        )
    a, b = (np.load(tmp_path / f"{name}.npz")["samples"] for name in "ab")
    np.testing.assert_allclose(a, b, atol=1e-5)
    capsys.readouterr()
    assert answer(capsys, "replay", str(tmp_path / "a.npz"))["verdict"] == "equal"


def test_bf16_is_nearly_the_same_and_is_replayed_as_it_was_made(run, tmp_path, capsys):
    words = ["sample", str(run), "-n", "4", "--steps", "2"]
    for precision in ("fp32", "bf16"):
        assert main([*words, "--precision", precision, "--out", str(tmp_path / f"{precision}.npz")]) == 0
    full, low = (np.load(tmp_path / f"{precision}.npz")["samples"] for precision in ("fp32", "bf16"))
    assert 0 < np.linalg.norm(low - full) <= 0.02 * np.linalg.norm(full)
    capsys.readouterr()
    assert answer(capsys, "replay", str(tmp_path / "bf16.npz"))["verdict"] == "equal"


def test_a_changed_picture_or_run_is_noticed(run, tmp_path, capsys):
    path = tmp_path / "grid.png"
    main(["sample", str(run), "-n", "2", "--steps", "2", "--out", str(path)])
    assert main(["replay", str(path)]) == 0
    from condiff.tasks.pictures import png_bytes, recipe_in

    recipe = recipe_in(path)
    edited = Image.open(path).convert("L").point(lambda v: 255 - v)
    path.write_bytes(png_bytes(edited, recipe))
    assert main(["replay", str(path)]) == 1
    assert "edited" in capsys.readouterr().out
    path.write_bytes(png_bytes(edited, {**recipe, "weights_sha256": "0"}))
    assert main(["replay", str(path)]) == 1
    assert "changed" in capsys.readouterr().out


def test_single_pictures_carry_their_own_index(run, tmp_path):
    folder = tmp_path / "each"
    assert main(["sample", str(run), "-n", "2", "--first", "3", "--steps", "2", "--out", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["00003.png", "00004.png"]
    assert main(["replay", str(folder / "00004.png")]) == 0


def test_conditions_by_name_and_in_turn(run, tmp_path, capsys):
    facts = answer(
        capsys, "sample", str(run), "-n", "3", "--steps", "2", "--cond", "label=3,7", "--out", str(tmp_path / "x.png")
    )
    assert facts["cond"] == {"label": ["3", "7"]}


@pytest.mark.parametrize(
    "solver", ["ddim", "ddpm", "heun", "midpoint", "dpm2m", "dpm3m", "unipc", "adams2", "evodiff", "sde", "langevin"]
)
def test_every_solver_by_name(run, tmp_path, solver):
    assert (
        main(["sample", str(run), "-n", "2", "--steps", "3", "--solver", solver, "--out", str(tmp_path / "x.npz")]) == 0
    )
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.isfinite(arrays["samples"]).all()


def test_info_of_checkpoint_and_picture(run, tmp_path, capsys):
    facts = answer(capsys, "info", str(run))
    assert facts["recipe"] == "digits"
    assert facts["shape"] == [1, 28, 28]
    assert facts["conditions"]["label"]["num_classes"] == 10
    main(["sample", str(run), "-n", "1", "--steps", "1", "--out", str(tmp_path / "x.png")])
    assert answer(capsys, "info", str(tmp_path / "x.png"))["seed"] == 0


def test_doctor_of_machine_data_and_run(run, capsys):
    assert answer(capsys, "doctor")["torch"]
    assert answer(capsys, "doctor", str(run))["problems"] == []
    assert answer(capsys, "doctor", "digits")
    (run / "checkpoint-3" / "optimizer.safetensors").write_bytes(b"x")
    assert main(["doctor", str(run)]) == 1


def test_eval_quick_says_what_it_measured(run, capsys):
    facts = answer(capsys, "eval", str(run), "--quick", "-n", "40")
    names = {metric["name"] for metric in facts["metrics"]}
    assert {"class_agreement", "class_agreement_unguided", "frechet"} <= names
    for metric in facts["metrics"]:
        assert metric["definition"]
        assert metric["interval"][0] <= metric["interval"][1]
    assert json.loads((run / "eval.json").read_text())["metrics"]


def test_eval_takes_steps_and_a_guidance_scale(run, capsys):
    kept = answer(capsys, "eval", str(run), "--quick", "-n", "40")
    facts = answer(capsys, "eval", str(run), "--quick", "-n", "40", "--steps", "3", "--guidance-scale", "5")
    assert (facts["num_steps"], facts["guidance_scale"]) == (3, 5.0)
    assert (kept["num_steps"], kept["guidance_scale"]) != (3, 5.0)
    assert "--steps 3 --guidance-scale 5 --quick" in (run / "report.html").read_text()
    assert [metric["value"] for metric in facts["metrics"]] != [metric["value"] for metric in kept["metrics"]]


def test_resume_goes_on_and_is_bit_equal(run, trained, tmp_path):
    long = tmp_path / "long"
    options = [*TINY[2:], "--checkpoint-every", "3", "--decay", "0"]
    assert main(["train", "digits", "--out", str(long), "--steps", "6", *options]) == 0
    short = tmp_path / "short"
    assert main(["train", "digits", "--out", str(short), "--steps", "3", *options]) == 0
    assert main(["train", "digits", "--out", str(short), "--steps", "6", *options, "--resume"]) == 0
    for name in ("model", "ema", "optimizer"):
        a, b = (path / "checkpoint-6" / f"{name}.safetensors" for path in (long, short))
        from condiff.train.packing import tensors_of

        left, right = tensors_of(a), tensors_of(b)
        assert all(np.array_equal(left[k].numpy(), right[k].numpy()) for k in left)


def test_an_own_folder_is_trained_by_the_general_recipe(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for k in range(12):
            Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(
                tmp_path / "pets" / name / f"{k}.png"
            )
    out = tmp_path / "run"
    words = ["train", str(tmp_path / "pets"), "--out", str(out), "--steps", "2", "--batch-size", "4", "--size", "tiny"]
    assert main(words) == 0
    assert "general recipe 'images'" in capsys.readouterr().err
    assert main(["sample", str(out), "-n", "2", "--steps", "2", "--cond", "label=dog"]) == 0


def test_an_own_table_is_trained_by_the_general_recipe(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 3))
    np.savez(tmp_path / "table.npz", x=rows.astype(np.float32))
    out = tmp_path / "run"
    assert main(["train", str(tmp_path / "table.npz"), "--out", str(out), "--steps", "2", "--batch-size", "4"]) == 0
    assert main(["sample", str(out), "-n", "2", "--steps", "2", "--out", str(tmp_path / "x.npz")]) == 0
    assert np.load(tmp_path / "x.npz")["samples"].shape == (2, 3)
    learned = (tmp_path / "table.npz").read_bytes()
    assert main(["sample", str(out), "-n", "2", "--steps", "2", "--out", str(tmp_path / "table.npz")]) == 2
    assert (tmp_path / "table.npz").read_bytes() == learned


def test_dashes_and_underscores(run, tmp_path):
    assert main(["sample", str(run), "--num_samples", "1", "--num_steps=1", "--out", str(tmp_path / "x.png")]) == 0


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert main(["--help"]) == 0
    assert "doctor" in capsys.readouterr().out
    assert sys.modules["condiff"].__version__
