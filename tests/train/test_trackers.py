"""Trackers: what each service is told, through a stand-in for the foreign package, and what a missing one says."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from dataclasses import replace

import pytest
from PIL import Image
from train.toy import FAST, data, toy

from condiff.train import tracker, train


class Calls(types.ModuleType):
    """Records every call made to a foreign package."""

    def __init__(self, name):
        super().__init__(name)
        self.made = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            self.made.append((name, args, kwargs))
            return self if name == "SummaryWriter" else f"<{name}>"

        return call


@pytest.fixture
def foreign(monkeypatch):
    def install(name):
        module = Calls(name)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return install


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_wandb_and_trackio(foreign, tmp_path, package):
    module = foreign(package)
    service = tracker(package, tmp_path / "digits", {"seed": 1})
    service.log(3, {"loss": 0.5})
    service.image(3, "samples", tmp_path / "a.png")
    service.close()
    assert module.made == [
        ("init", (), {"project": "condiff", "name": "digits", "config": {"seed": 1}}),
        ("log", ({"loss": 0.5},), {"step": 3}),
        ("Image", (str(tmp_path / "a.png"),), {}),
        ("log", ({"samples": "<Image>"},), {"step": 3}),
        ("finish", (), {}),
    ]


def test_mlflow(foreign, tmp_path):
    module = foreign("mlflow")
    service = tracker("mlflow", tmp_path / "digits", {"seed": 1})
    service.log(3, {"loss": 0.5})
    service.image(3, "samples", tmp_path / "a.png")
    service.close()
    assert [name for name, _, _ in module.made] == ["start_run", "log_dict", "log_metrics", "log_artifact", "end_run"]
    assert module.made[2][1:] == (({"loss": 0.5},), {"step": 3})


def test_tensorboard_gets_pixels(foreign, tmp_path):
    module = foreign("torch.utils.tensorboard")
    Image.new("RGB", (3, 2), (9, 8, 7)).save(tmp_path / "a.png")
    service = tracker("tensorboard", tmp_path, {})
    service.log(3, {"loss": 0.5})
    service.image(3, "samples", tmp_path / "a.png")
    service.close()
    assert module.made[0][1] == (str(tmp_path / "tensorboard"),)
    assert module.made[1] == ("add_scalar", ("loss", 0.5, 3), {})
    name, pixels, step = module.made[2][1]
    assert (name, pixels.shape, pixels[0, 0].tolist(), step) == ("samples", (2, 3, 3), [9, 8, 7], 3)


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_missing_package_says_how_to_install_it(monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"pip install {name}$"):
        tracker(name, tmp_path, {})


def test_a_wrong_name_offers_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"'wandbb'; did you mean 'wandb'\? There are mlflow, tensorboard, trackio"):
        tracker("wandbb", tmp_path, {})


class Plugin:
    def __init__(self, run, config):
        self.run, self.config, self.heard, self.closed = run, config, [], 0

    def log(self, step, values):
        self.heard.append((step, values))

    def image(self, step, name, path):
        self.heard.append((step, name, path.exists()))

    def close(self):
        self.closed += 1


@pytest.fixture
def plugin(monkeypatch):
    made = []
    point = importlib.metadata.EntryPoint("mine", "somewhere:Plugin", "condiff.trackers")
    monkeypatch.setattr(
        importlib.metadata.EntryPoint, "load", lambda self: lambda *a: made.append(Plugin(*a)) or made[-1]
    )
    monkeypatch.setattr(
        sys.modules[tracker.__module__], "entry_points", lambda group: [point] if group == point.group else []
    )
    return made


def test_a_plugin_hears_the_whole_run(plugin, tmp_path):
    settings = replace(FAST, sample_every=6)
    pictures = lambda system, step: Image.new("L", (2, 2))  # noqa: E731
    train(toy(), data(), out=tmp_path / "r", settings=settings, report_to=["mine"], pictures=pictures)
    (service,) = plugin
    assert service.run == tmp_path / "r"
    assert service.config["recipe"] == "toy"
    assert [heard[0] for heard in service.heard if isinstance(heard[1], dict)] == list(range(1, 13))
    assert "validation_loss" in service.heard[-2][1]
    assert [heard for heard in service.heard if heard[1] == "samples"] == [(6, "samples", True), (12, "samples", True)]
    assert service.closed == 1


def test_a_plugin_is_closed_when_training_fails(plugin, tmp_path):
    with pytest.raises(RuntimeError):
        train(
            toy(),
            data(),
            out=tmp_path / "r",
            settings=replace(FAST, learning_rate=1e30, clip=0.0),
            report_to=["mine"],
        )
    assert plugin[0].closed == 1
