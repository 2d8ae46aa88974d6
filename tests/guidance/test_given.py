"""Known tokens in diffusion on vectors: read without noise, moved by the process as if it had estimated them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from condiff.core import Condition, RowRng, SharedRng, instant
from condiff.core.estimate import Moments
from condiff.guidance import CFG, GivenTokens
from condiff.nn import EmbeddingSpace
from condiff.process import Embedded, Gaussian, Recalling, Table
from condiff.process.target import Data
from condiff.recipes import diffusia
from condiff.tasks.text import ids, joined, write

PROCESS = Embedded(Gaussian(Table.square_root(40)), 8, 257)
TEXTS = ("the cat sat down", "a dog ran far on")


class Texts:
    """The exact denoiser of a few whole texts, equally likely; positions that are vectors without noise are certain."""

    def __init__(self, process=PROCESS, texts=TEXTS):
        self.process, self.space = process, EmbeddingSpace(257, process.width).requires_grad_(False)
        self.ids = torch.stack([ids(text) for text in texts])

    def __call__(self, x, t, cond):
        x = self.process.vectors(x)
        alpha, sigma = self.process.schedule(float(t))
        vectors = self.space(self.ids)
        clean = (x == self.space(self.space.nearest(x))).all(-1)
        away = (x[:, None] - alpha * vectors).square().sum(-1) / (2 * max(sigma, 1e-3) ** 2)
        sure = (x[:, None] - vectors).square().sum(-1) * 1e6
        weight = torch.softmax(-torch.where(clean[:, None], sure, away).sum(-1), 1)
        data = torch.einsum("bk,kld->bld", weight, vectors)
        if float(t) == 0.0:
            return Moments({"data": data, "noise": torch.zeros_like(data)}, {"tokens": self.space.nearest(data)})
        return Gaussian(self.process.schedule).infer(x, t, data, Data())


def test_known_tokens_run_through_the_states_of_the_process_itself():
    exact = Texts()
    tokens = torch.full((2, 16), PROCESS.mask)
    tokens[0, 3], tokens[1, 5] = 65, 66
    told = GivenTokens(exact, PROCESS, exact.space, tokens)
    x = PROCESS.start((2, 16), rng=RowRng(0, range(2)))
    start, (alpha, sigma) = x, PROCESS.schedule(1.0)
    noise = (start[0, 3] - alpha * exact.space(torch.tensor(65))) / sigma
    for t, s in ((1.0, 0.7), (0.7, 0.2)):
        est = told(x, instant(t), None)
        known = tokens != PROCESS.mask
        plain = exact(torch.where(known[..., None], exact.space(tokens.clamp_max(256)), x), instant(t), None)
        torch.testing.assert_close(est.parts["data"][~known], plain.parts["data"][~known])
        x = PROCESS.reverse(x, instant(t), instant(s), est, eta=0.0, rng=RowRng(0, range(2)))
        alpha, sigma = PROCESS.schedule(s)
        torch.testing.assert_close(x[0, 3], alpha * exact.space(torch.tensor(65)) + sigma * noise, rtol=1e-4, atol=1e-4)
    ends = PROCESS.finish(x, lambda x, t: told(x, t, None))
    assert (int(ends[0, 3]), int(ends[1, 5])) == (65, 66)


def test_a_batch_doubled_by_guidance_is_told_twice():
    exact, tokens = Texts(), torch.full((2, 16), PROCESS.mask)
    tokens[0, 0], tokens[1, 0] = 65, 66
    told = GivenTokens(exact, PROCESS, exact.space, tokens)
    x, cond = PROCESS.start((2, 16), rng=SharedRng(0)), Condition.of(label=torch.tensor([0, 1]))
    torch.testing.assert_close(
        CFG(told, 2.0)(x, instant(0.8), cond).parts["data"], told(x, instant(0.8), cond).parts["data"]
    )


@pytest.mark.parametrize("recalls", [False, True])
def test_a_prompt_is_continued_and_gaps_are_filled_on_vectors_too(recalls):
    inner = Recalling(PROCESS.inner) if recalls else PROCESS.inner
    process = replace(PROCESS, inner=inner)
    made = diffusia(length=16, width=32, depth=1, features=8, self_conditioning=0.5 if recalls else 0.0)
    system = replace(made, process=process, denoiser=Texts(process), data={"kind": "text"}, num_steps=12)
    assert joined(write(system, num_samples=3, prompt="a d", batch_size=2)) == [TEXTS[1]] * 3
    assert joined(write(system, num_samples=2, infill="the ___ sat ____")) == [TEXTS[0]] * 2
    free = joined(write(system, num_samples=20, seed=3))
    assert set(free) == set(TEXTS)
    assert joined(write(system, num_samples=5, first=10, seed=3, batch_size=2)) == free[10:15]


def test_a_long_text_is_written_on_vectors_window_after_window():
    cycle = "abcdefghijklmnopqrst"
    exact = Texts(texts=[(cycle * 3)[k : k + 16] for k in range(len(cycle))])
    made = diffusia(length=16, width=32, depth=1, features=8, self_conditioning=0.0)
    system = replace(made, process=PROCESS, denoiser=exact, data={"kind": "text"}, num_steps=12)
    assert joined(write(system, num_samples=3, prompt="ab", length=50, batch_size=2)) == [(cycle * 3)[:50]] * 3
