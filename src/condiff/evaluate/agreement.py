"""Class agreement: does a judge read in a sample the class that was asked for?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from condiff.evaluate.metric import Metric, share


def agreement(samples: Tensor, asked: Tensor, *, classify: Callable[[Tensor], Tensor], definition: str) -> Metric:
    """Measure the share of samples that a classifier reads as the class they were asked to be.

    It says nothing of variety: one perfect picture a class would score 1. Read it beside recall or coverage.

    Args:
        samples: Rows (N, *S).
        asked: Classes asked for, integers (N,).
        classify: Classifier, (B, *S) to integer classes (B,), such as `judge().classify`.
        definition: What the classifier is and how often it is right on real data.

    Returns: Metric "agreement", a fraction with its Wilson interval; `details` has the share by class, "class 3".

    Raises:
        ValueError: If there is no sample, or asked or the classes read are not integers (N,).
    """
    if len(samples) == 0:
        raise ValueError("there are no samples to judge; give at least one")
    _integers(asked, len(samples), "the classes asked for")
    with torch.no_grad():
        read = classify(samples)
    _integers(read, len(samples), "the classes read by the classifier")
    hits = read.cpu() == asked.cpu()
    by_class = {f"class {c}": float(hits[asked.cpu() == c].double().mean()) for c in sorted(set(asked.tolist()))}
    return share(
        hits,
        name="agreement",
        definition=f"share of samples read as the class asked for; classifier: {definition}",
        details=by_class,
    )


def _integers(value: Tensor, n: int, what: str) -> None:
    if value.shape != (n,) or value.is_floating_point() or value.dtype == torch.bool:
        raise ValueError(f"{what} must be integers of shape ({n},), got {value.dtype} {tuple(value.shape)}")
