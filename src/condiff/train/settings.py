"""Training settings: one frozen record, with defaults a recipe may replace and a command line may override."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final


@final
@dataclass(frozen=True)
class Training:
    """How a system is trained.

    Args:
        steps: Optimiser steps, >= 1.
        batch_size: Rows a step over all devices and accumulation parts, >= 1.
        learning_rate: Peak of AdamW's learning rate, > 0.
        warmup_steps: Steps of linear warm-up from 0; a tenth of `seconds` at most, where that ends the run.
        decay: Share of the last steps over which the rate falls to 0 along a cosine, in [0, 1]; 0 keeps it constant.
        weight_decay: AdamW's decoupled decay.
        betas: AdamW's averaging rates.
        clip: Largest gradient norm; 0 does not clip.
        ema: Decay of the weight average; early in training it is min(ema, (1 + step) / (10 + step)).
        accumulate: Parts a batch is split into, so that a large batch fits the memory; the result is the same.
        precision: Type of the network's matrix products: bf16 runs under autocast, weights stay float32.
        checkpoint_every: Steps between checkpoints; 0 writes one at the end only.
        keep: Checkpoints to keep, newest first, >= 1.
        sample_every: Steps between sample pictures; 0 makes them at the end only.
        log_every: Steps between lines in metrics.jsonl and on the terminal.
        validate_every: Steps between validation losses; 0 measures at the end only.
        seconds: Stop after this much training time, whatever `steps` says; 0 is no limit. The decay then follows the
            clock too, so that a run on a slow machine still ends with a small rate; such a run is not bit-reproducible.
    """

    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay: float = 0.5
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema: float = 0.999
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every: int = 500
    keep: int = 2
    sample_every: int = 500
    log_every: int = 20
    validate_every: int = 500
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup_steps", "clip", "checkpoint_every", "sample_every", "validate_every", "seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")
        if not 0.0 <= self.decay <= 1.0 or not 0.0 <= self.ema < 1.0:
            raise ValueError(f"decay must lie in [0, 1] and ema in [0, 1), got {self.decay} and {self.ema}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not split into {self.accumulate} equal parts")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, got {self.precision!r}")
