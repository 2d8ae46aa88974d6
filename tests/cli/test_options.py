"""Options read from source, and options that contradict the data."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from condiff.cli import signature
from condiff.cli.errors import UsageError, nearest
from condiff.cli.main import VERBS, main
from condiff.cli.signature import Option, recipe_names, recipe_options, training_options

PLUGIN = '''
from __future__ import annotations
from condiff.recipes import recipe
from condiff.train import Training

@recipe(training=Training(steps=7))
def stars(*, arms: int = 5, glow: float = 0.5):
    """Stars by flow matching.

    Args:
        arms: Number of arms.
        glow: Light, in [0, 1].
    """
'''


def test_no_help_imports_torch():
    lines = [[verb, "--help"] for verb in VERBS] + [
        ["--help"],
        ["--version"],
        ["train", "digits", "--help"],
        ["systems"],
    ]
    script = (
        "import sys\n"
        "from condiff.cli.main import main\n"
        f"codes = [main(words) for words in {lines!r}]\n"
        "assert codes == [0] * len(codes), codes\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--learning-rate" in done.stdout
    assert "--widths" in done.stdout


def test_help_names_only_verbs_that_are_there(capsys):
    main(["--help"])
    text = capsys.readouterr().out
    for verb in ("classify", "edit", "convert"):
        assert f"  {verb} " not in text


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "12", 12),
        ("float", "1e-3", 1e-3),
        ("bool", "no", False),
        ("tuple[int, ...]", "16,32", (16, 32)),
        ("tuple[int, ...]", "16x32", (16, 32)),
        ("tuple[float, float]", "0.9,0.99", (0.9, 0.99)),
        ("Literal['unet', 'dit']", "dit", "dit"),
        ("str | None", "a", "a"),
    ],
)
def test_typed_values(kind, text, value):
    parsed = Option("x", kind, None, "").parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("kind", "text", "word"),
    [
        ("int", "1.5", "whole"),
        ("float", "nan", "finite"),
        ("float", "inf", "finite"),
        ("bool", "maybe", "yes or no"),
        ("tuple[int, ...]", "", "whole numbers"),
        ("tuple[int, ...]", "8,", "whole numbers"),
        ("tuple[float, float]", "0.9", "2 numbers"),
        ("tuple[int, int, int]", "1,2,3,4", "3 whole numbers"),
        ("Literal['unet', 'dit']", "vit", "unet, dit"),
    ],
)
def test_values_of_the_wrong_kind(kind, text, word):
    with pytest.raises(UsageError, match=word):
        Option("x_y", kind, None, "").parse(text)


def test_every_option_of_every_recipe_has_a_line_of_help():
    for name in recipe_names():
        summary, options = recipe_options(name)
        assert summary.endswith(".")
        assert all(option.text for option in options), name
    assert all(option.text for option in training_options())


def test_training_defaults_are_the_recipes_own():
    own = {option.name: option.default for option in training_options("digits")}
    assert own["learning_rate"] == 2e-3
    assert own["precision"] == "bf16"


def test_plugins_bring_recipes(tmp_path, monkeypatch, capsys):
    (tmp_path / "starry.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("stars", "starry:stars", "condiff.recipes")
    for module in ("condiff.cli.signature", "condiff.recipes"):
        monkeypatch.setattr(f"{module}.entry_points", lambda group: [point] if group == "condiff.recipes" else [])
    assert "stars" in signature.recipe_names()
    summary, options = recipe_options("stars")
    assert summary == "Stars by flow matching."
    assert [(o.name, o.kind, o.default, o.text) for o in options] == [
        ("arms", "int", 5, "Number of arms."),
        ("glow", "float", 0.5, "Light, in [0, 1]."),
    ]
    assert {o.name: o.default for o in training_options("stars")}["steps"] == 7
    assert main(["train", "stars", "--help"]) == 0
    assert "--arms" in capsys.readouterr().out


def test_the_recipe_may_stand_behind_its_options(tmp_path):
    out = tmp_path / "run"
    words = ["train", "--out", str(out), "--precision=fp32", "digits", "--steps", "1", "--batch-size", "8"]
    assert main([*words, "--widths", "8,16", "--validate-every", "0", "--sample-every", "0"]) == 0
    assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["--num-classes", "5"], "10 classes"),
        (["--side", "16"], "28"),
        (["--drop", "2"], "[0, 1]"),
        (["--drop", "nan"], "--drop"),
        (["--num-steps", "0"], "at least 1"),
        (["--betas", "0.9"], "--betas"),
        (["--batch-size", "1000000000000"], "--batch-size"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_that_contradict_the_data_write_nothing(words, needle, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "digits", "--out", str(out), "--steps", "1", "--widths", "8,16", *words]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1
    assert needle in err[0]
    assert not out.exists()


def test_a_missing_recipe_is_named(capsys):
    for words in (["train", "--out", "x"], ["train", ""]):
        assert main(words) == 2
        assert "digits" in capsys.readouterr().err or words == ["train", "--out", "x"]


def test_nearest_ends_the_sentence():
    assert nearest("digit", ["digits", "images"]) == "; did you mean digits?"
    assert nearest("zzzz", ["digits"]) == "."


def test_a_full_disk_behind_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "condiff", "systems"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "condiff: standard output: the disk is full; free some space and run again, nothing that was there is lost"
    ]
