"""Small classifiers of handwritten digits: judges of class agreement and feature functions for image metrics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import final

import torch
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS = "weights/judge.safetensors"
WEIGHTS8 = "weights/judge8.safetensors"
"""Where the trained weights are, inside this package; `tools/train_judge.py` makes the files."""


@final
class Judge(nn.Module):
    """A convolutional digit classifier without normalisation layers: a row's result does not depend on its batch.

    Three halving stages and a 64-wide hidden layer, about 137,000 numbers. It has gradients with respect to its input,
    so it can also guide. The constructor leaves the weights as torch initialises them; `judge` loads trained ones.

    Args:
        definition: What the features are and where they come from, for the record beside a metric.
    """

    num_classes = 10
    num_features = 64

    def __init__(self, definition: str = "64 hidden features of an untrained digit judge") -> None:
        super().__init__()
        self.definition = definition
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, 32, 5, stride=2, padding=2),
                nn.Conv2d(32, 64, 3, padding=1),
                nn.Conv2d(64, 64, 3, stride=2, padding=1),
                nn.Conv2d(64, 96, 3, padding=1),
            ]
        )
        self.hidden = nn.Linear(96 * 4, self.num_features)
        self.head = nn.Linear(self.num_features, self.num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Compute the last hidden layer.

        Args:
            x: Images (B, 1, 28, 28), float, black -1 to white 1; values outside are accepted as they are.

        Returns: Features (B, 64), each >= 0.

        Raises:
            ValueError: If x has another shape or an integer type.
        """
        if x.ndim != 4 or x.shape[1:] != (1, 28, 28) or not x.is_floating_point():
            raise ValueError(
                f"the digit judge reads float images (B, 1, 28, 28) in [-1, 1], got {x.dtype} {tuple(x.shape)}; "
                "for other data pass a feature function of your own or RandomFeatures"
            )
        x = x.to(self.head.weight)
        for conv in self.convs:
            x = functional.relu(conv(x))
        x = functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return functional.relu(self.hidden(x))

    def logits(self, x: Tensor) -> Tensor:
        """Compute unnormalised log-probabilities (B, 10) of the digits; x as in `features`."""
        out: Tensor = self.head(self.features(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Compute `logits`."""
        return self.logits(x)

    def classify(self, x: Tensor) -> Tensor:
        """Read each image as a digit: int64 (B,) in 0..9; x as in `features`."""
        return _classify(self, x)


@final
class Judge8(nn.Module):
    """A perceptron 64 - 256 - 32 - 10 that reads digits at 8x8, for experiments in seconds.

    Args:
        definition: What the features are and where they come from, for the record beside a metric.
    """

    num_classes = 10
    num_features = 32

    def __init__(self, definition: str = "32 hidden features of an untrained 8x8 digit judge") -> None:
        super().__init__()
        self.definition = definition
        self.enter, self.hidden, self.head = nn.Linear(64, 256), nn.Linear(256, self.num_features), nn.Linear(32, 10)

    def features(self, x: Tensor) -> Tensor:
        """Compute the last hidden layer.

        Args:
            x: Images (B, 1, 8, 8) or flat (B, 64), float, black -1 to white 1.

        Returns: Features (B, 32), each >= 0.

        Raises:
            ValueError: If x has another shape or an integer type.
        """
        if x.shape[1:] not in ((1, 8, 8), (64,)) or not x.is_floating_point():
            raise ValueError(f"this judge reads float digits (B, 1, 8, 8) or (B, 64), got {x.dtype} {tuple(x.shape)}")
        x = x.flatten(1).to(self.head.weight)
        return functional.relu(self.hidden(functional.relu(self.enter(x))))

    def logits(self, x: Tensor) -> Tensor:
        """Compute unnormalised log-probabilities (B, 10) of the digits; x as in `features`."""
        out: Tensor = self.head(self.features(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Compute `logits`."""
        return self.logits(x)

    def classify(self, x: Tensor) -> Tensor:
        """Read each image as a digit: int64 (B,) in 0..9; x as in `features`."""
        return _classify(self, x)


@torch.no_grad()
def _classify(net: Judge | Judge8, x: Tensor) -> Tensor:
    if not len(x):
        return x.new_zeros(0).long()
    return torch.cat([net.logits(part).argmax(-1) for part in torch.split(x, 500)])


@cache
def judge(device: str = "cpu") -> Judge:
    """Load the packaged judge, once per device; its weights are frozen.

    Returns: A Judge with float32 weights and `definition` naming the weights by their hash.
    """
    # Built without storage: torch's initialisation would draw from the global generator.
    with torch.device("meta"):
        net = Judge(f"64 hidden features (after ReLU) of the condiff digit judge, weights sha256 {_digest(WEIGHTS)}")
    _fill(net, WEIGHTS, device)
    return net


@cache
def judge8(device: str = "cpu") -> Judge8:
    """Load the packaged judge of digits at 8x8, as `judge`."""
    with torch.device("meta"):
        net = Judge8(f"32 hidden features (after ReLU) of the condiff 8x8 judge, weights sha256 {_digest(WEIGHTS8)}")
    _fill(net, WEIGHTS8, device)
    return net


def _weights(file: str) -> bytes:
    return (resources.files("condiff.evaluate") / file).read_bytes()


def _digest(file: str) -> str:
    return hashlib.sha256(_weights(file)).hexdigest()[:12]


def _fill(net: nn.Module, file: str, device: str) -> None:
    state = {name: value.to(device, torch.float32) for name, value in load(_weights(file)).items()}
    net.load_state_dict(state, assign=True)
    net.requires_grad_(False).eval()


def judge_facts(file: str = WEIGHTS) -> Mapping[str, str]:
    """Read what packaged weights say about themselves: data, split, seed, accuracies."""
    with resources.as_file(resources.files("condiff.evaluate") / file) as path, safe_open(path, "pt") as opened:
        facts: dict[str, str] = json.loads(opened.metadata()["facts"])
    return facts
