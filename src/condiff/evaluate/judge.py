"""A small classifier of handwritten digits: the judge of class agreement and a feature function for image metrics."""

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
"""Where the trained weights are, inside this package; `tools/train_judge.py` makes the file."""


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

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """Read each image as a digit: int64 (B,) in 0..9; x as in `features`."""
        return (
            torch.cat([self.logits(part).argmax(-1) for part in torch.split(x, 500)])
            if len(x)
            else x.new_zeros(0).long()
        )


def _weights() -> bytes:
    return (resources.files("condiff.evaluate") / WEIGHTS).read_bytes()


@cache
def judge(device: str = "cpu") -> Judge:
    """Load the packaged judge, once per device; its weights are frozen.

    Returns: A Judge with float32 weights and `definition` naming the weights by their hash.
    """
    blob = _weights()
    digest = hashlib.sha256(blob).hexdigest()[:12]
    # Built without storage: torch's initialisation would draw from the global generator.
    with torch.device("meta"):
        net = Judge(f"64 hidden features (after ReLU) of the condiff digit judge, weights sha256 {digest}")
    net.load_state_dict({name: value.to(device, torch.float32) for name, value in load(blob).items()}, assign=True)
    return net.requires_grad_(False).eval()


def judge_facts() -> Mapping[str, str]:
    """Read what the packaged weights say about themselves: data, split, seed, accuracies."""
    with resources.as_file(resources.files("condiff.evaluate") / WEIGHTS) as path, safe_open(path, "pt") as file:
        facts: dict[str, str] = json.loads(file.metadata()["facts"])
    return facts
