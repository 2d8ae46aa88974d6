"""Blocks of every size in one network, a learned block size, and guidance by a classifier: real text."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from condiff.claims.claim import Result, Row, over_seeds, single
from condiff.claims.lab import Talk, trained
from condiff.core.drivers import sample
from condiff.core.estimate import Categorical
from condiff.core.rng import RowRng, SharedRng, key
from condiff.core.system import System
from condiff.data import Splits, corpus
from condiff.data.verses import passages
from condiff.guidance import BestTokens, Classified
from condiff.nn import TokenDiT
from condiff.objectives import BlockOrder
from condiff.process import Blockwise, EqualBlocks
from condiff.process.absorbing import reveal
from condiff.recipes import ctrldiff
from condiff.tasks.blocks import write_blocks
from condiff.tasks.generate import Counted
from condiff.tasks.partition import LearnedSize, PartitionMDP, before, greedy_cost, learn, one_shot_nats
from condiff.train.fit import module_of

CLAIM = (
    "one network's bound rises with the block size; a learned block size lies between the best fixed one and "
    "hindsight; a classifier guides text to its class; blocks that are remembered equal blocks that are read again"
)
LENGTH, SIZES = 48, (1, 2, 4, 8, 16)
BOUNDS = (1, 2, 4, 8, 16, 48)
DRAWS = 4
"""Draws of masks for each text and block size, but one."""

SCALE = 3.0


@final
@dataclass(frozen=True)
class Budget:
    """What one run of the experiment may cost.

    Args:
        steps: Training steps of the network.
        held_out: Held-out windows for the bound.
        learned: Windows that policies learn from, of books held out of the network's training; a fifth of them tells
            when to stop.
        compared: Windows of other books, on which policies are compared.
        policy_steps: Training steps of a policy.
        reader_steps: Training steps of a classifier.
        seeds: Policies learned and groups of texts written.
        written: Texts written for each seed and way.
    """

    steps: int
    held_out: int
    learned: int
    compared: int
    policy_steps: int
    reader_steps: int
    seeds: int
    written: int


QUICK = Budget(120, 60, 40, 20, 40, 150, 1, 10)
FULL = Budget(5000, 1500, 4000, 600, 600, 600, 3, 30)


class TextClassifier(nn.Module):
    """Which of two translations? A small convolutional reader of one-hot tokens, the mask among them."""

    def __init__(self, vocabulary: int, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Linear(vocabulary + 1, width, bias=False)
        self.mix = nn.ModuleList([nn.Conv1d(width, width, 5, padding=2) for _ in range(2)])
        self.out = nn.Linear(width, 2)

    def forward(self, hot: Tensor) -> Tensor:
        """Return log-probabilities (N, 2) of one-hot tokens (N, L, V + 1)."""
        h = self.embed(hot).transpose(1, 2)
        for layer in self.mix:
            h = h + nn.functional.gelu(layer(h))
        return torch.log_softmax(self.out(h.mean(2)), -1)


def run(*, quick: bool, seed: int, out: Path | None, talk: Talk) -> Result:
    """Train one network on both translations, then measure bounds, policies, guidance and memory."""
    budget = QUICK if quick else FULL
    splits, labels = both()
    settings = replace(ctrldiff.training, steps=budget.steps, precision="bf16")
    system = trained(ctrldiff, splits, seed=seed, talk=talk, settings=settings, width=96, depth=3)
    module_of(system).eval()
    rows = _bounds(system, splits, budget.held_out, seed)
    talk(", ".join(f"{row.name} {row.value:.3f}" for row in rows))
    rows += _policies(system, splits, budget, seed, talk)
    guided, calls = _guided(system, splits, labels, budget, seed, out, talk)
    rows += guided
    rows += _remembered(system, seed)
    value = {row.name: row.value for row in rows}
    return Result(
        system="ctrldiff",
        claim=CLAIM,
        data=f"windows of {LENGTH} bytes of two translations, books held out; {budget.steps} steps of "
        f"{settings.batch_size}, one network, {budget.seeds} seed(s) of policies and texts",
        seed=seed,
        rows=rows,
        effect=f"{value['bits a byte, blocks of 1']:.3f} bits a byte in blocks of 1, "
        f"{value['bits a byte, blocks of 48']:.3f} in one block; at the middle price the policy recovers "
        f"{value['gap recovered, price 2']:.0%} of the gap to hindsight; read as asked "
        f"{value['guided: read as asked']:.0%} with guidance, {value['unguided: read as asked']:.0%} without",
        expected="the bound rises from each block size to the next; at three prices the policy lies between the best "
        "fixed size (95 % sure over texts) and hindsight and recovers at least 20 % of the gap; guidance raises the "
        "share read as asked by at least 20 points; memory changes no token",
        holds=verdict(rows),
        calls=calls,
    )


def verdict(rows: Sequence[Row]) -> bool:
    """Tell whether every part of the claim holds in the rows."""
    value = {row.name: row.value for row in rows}
    most = {row.name: row.interval[1] for row in rows}
    bounds = [value[f"bits a byte, blocks of {k}"] for k in BOUNDS]
    between = all(
        value[f"hindsight, price {k}"] < value[f"learned, price {k}"] < value[f"best fixed, price {k}"]
        and most[f"learned over best fixed, price {k}"] < 0.0
        and value[f"gap recovered, price {k}"] >= 0.2
        for k in (1, 2, 3)
    )
    return (
        all(a < b for a, b in pairwise(bounds))
        and between
        and value["guided: read as asked"] >= value["unguided: read as asked"] + 0.2
        and value["tokens that differ with memory"] == 0.0
    )


def both() -> tuple[Splits, list[Tensor]]:
    """Return windows of both translations in one set without condition, and which each is from, 0 or 1."""
    sets = [passages(LENGTH, version) for version in ("kjv", "bbe")]
    parts, labels = [], []
    for name in ("train", "validation", "test"):
        pair = [getattr(one, name) for one in sets]
        data = torch.cat([one.data for one in pair])
        label = torch.cat([torch.full((len(one),), k) for k, one in enumerate(pair)])
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        parts.append(replace(pair[0], data=data[order], name="kjv and bbe"))
        labels.append(label[order])
    return Splits(*parts), labels


def blockwise(system: System[Any, Any]) -> Blockwise:
    """Return the system's denoiser, which writes in blocks."""
    assert isinstance(system.denoiser, Blockwise)
    return system.denoiser


def _bounds(system: System[Any, Any], splits: Splits, num: int, seed: int) -> list[Row]:
    """Measure the bound for each block size, and its rise from one to the next over the same windows."""
    held = splits.test.take(num).data.long()
    bits = {size: bound(system, held, size, seed) / math.log(2) for size in BOUNDS}
    rows = [_mean(f"bits a byte, blocks of {size}", found, "bits/byte") for size, found in bits.items()]
    return rows + [_mean(f"rise from {a} to {b}", bits[b] - bits[a], "bits/byte") for a, b in pairwise(BOUNDS)]


@torch.no_grad()
def bound(system: System[Any, Any], data: Tensor, size: int, seed: int) -> Tensor:
    """Measure the bound of texts (N, L) in blocks of one size, nats a token, float64 (N,): the mean of some draws."""
    objective = BlockOrder(system.process, EqualBlocks(size))
    parts = []
    for k, part in enumerate(data.split(100)):
        count = 1 if size == 1 else DRAWS  # nothing is drawn in blocks of one
        found = [objective(system.denoiser, part, None, rng=SharedRng(seed, size, k, n)).rows for n in range(count)]
        parts.append(torch.stack(found).double().mean(0))
    return torch.cat(parts)


def _mean(name: str, values: Tensor, unit: str) -> Row:
    """Return the mean of values over texts (N,), with its 95 % interval."""
    half = 1.96 * float(values.double().std()) / len(values) ** 0.5
    mean = float(values.double().mean())
    return Row(name, mean, unit, len(values), (mean - half, mean + half))


def _policies(system: System[Any, Any], splits: Splits, budget: Budget, seed: int, talk: Talk) -> list[Row]:
    """Compare fixed sizes, a learned policy and hindsight at three prices of a call, on texts new to the policy."""
    # Learned on books for validation, compared on test books; `stop` are the texts that tell when to stop.
    texts = [splits.validation.take(budget.learned).data.long(), splits.test.take(budget.compared).data.long()]
    learned, new = (_costs(system, data) for data in texts)
    rest = len(texts[0]) - len(texts[0]) // 5
    own, stop = ((learned[0][part], learned[1][part]) for part in (slice(rest), slice(rest, None)))
    # The price at which the largest and the smallest blocks cost the same, half and twice of it: known before any
    # policy is.
    plain = PartitionMDP(learned[0], SIZES)
    calls = {k: float(PartitionMDP(torch.ones(1, LENGTH, len(SIZES)), SIZES).fixed(k)) for k in SIZES}
    even = float((plain.fixed(SIZES[-1]) - plain.fixed(1)).mean()) / (calls[1] - calls[SIZES[-1]])
    rows = [single("price of a call at which all sizes cost alike", even, len(texts[0]), "nats")]
    for number, price in ((1, even / 2), (2, even), (3, 2 * even)):
        priced = {name: (PartitionMDP(cost + price, SIZES), states) for name, (cost, states) in
                  {"own": own, "stop": stop, "new": new}.items()}  # fmt: skip
        found: dict[str, list[Tensor]] = {"own": [], "new": []}
        for n in range(budget.seeds):
            policy = _policy(*priced["own"], priced["stop"], budget.policy_steps, key(seed, "policy", number, n))
            for name, costs in found.items():
                costs.append(greedy_cost(policy, *priced[name]))
        # Learned on the texts that it is compared on: what more texts of the same kind could add at most.
        shown = _policy(*priced["new"], None, budget.policy_steps, key(seed, "policy", number, "shown"))
        mdp = priced["new"][0]
        fixed = {k: mdp.fixed(k) for k in SIZES}
        best = min(fixed, key=lambda k: float(fixed[k].mean()))
        rows += [_mean(f"fixed {k}, price {number}", fixed[k], "nats") for k in SIZES]
        rows.append(_mean(f"best fixed, price {number}", fixed[best], "nats"))
        rows.append(_mean(f"hindsight, price {number}", mdp.optimal()[0], "nats"))
        rows.append(_mean(f"learned, price {number}", torch.stack(found["new"]).mean(0), "nats"))
        ahead = torch.stack(found["new"]).mean(0) - fixed[best]
        rows.append(_mean(f"learned over best fixed, price {number}", ahead, "nats"))
        for title, name in (("gap recovered", "new"), ("gap recovered on its own texts", "own")):
            shares = [_recovered(priced[name][0], cost) for cost in found[name]]
            rows.append(over_seeds(f"{title}, price {number}", shares, "", len(found[name][0])))
        rows.append(
            single(
                f"gap recovered having learned these texts, price {number}",
                _recovered(mdp, greedy_cost(shown, *priced["new"])),
                len(texts[1]),
            )
        )
        value = {row.name: row.value for row in rows}
        talk(
            f"price {price:.2f}: best fixed {best} {value[f'best fixed, price {number}']:.1f}, "
            f"learned {value[f'learned, price {number}']:.1f}, hindsight {value[f'hindsight, price {number}']:.1f}"
        )
    return rows


@torch.no_grad()
def _costs(system: System[Any, Any], data: Tensor) -> tuple[Tensor, Tensor]:
    """Return what blocks of texts (N, L) cost in one call (N, L, A), 0 past the end, and states (N, L, S)."""
    quality = torch.cat([one_shot_nats(blockwise(system), part, SIZES) for part in data.split(100)])
    states = torch.cat([before(_net(system).states(part)) for part in data.split(100)])
    return torch.where(torch.isfinite(quality), quality, 0.0), states


def _policy(
    mdp: PartitionMDP, states: Tensor, held: tuple[PartitionMDP, Tensor] | None, steps: int, seed: int
) -> LearnedSize:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = LearnedSize(states.shape[-1], SIZES)
    return learn(policy, mdp, states, held=held, steps=steps, seed=seed)


def _recovered(mdp: PartitionMDP, cost: Tensor) -> float:
    """Return which share of the way from the best fixed size to hindsight a policy comes, by mean cost."""
    fixed = min(float(mdp.fixed(k).mean()) for k in SIZES)
    # A network that knows nothing leaves no gap.
    return (fixed - float(cost.mean())) / max(fixed - float(mdp.optimal()[0].mean()), 1e-9)


def classifier(data: Tensor, labels: Tensor, vocabulary: int, seed: int, *, masked: bool, steps: int) -> TextClassifier:
    """Train a reader of the translation, on whole texts or on texts with a random share masked and cut off."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "classifier", int(masked)))
        net = TextClassifier(vocabulary)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    for _ in range(steps):
        index = torch.randint(len(data), (128,), generator=generator)
        x = data[index].long()
        if masked:
            share = torch.rand(len(x), 1, generator=generator)
            x = x.masked_fill(torch.rand(x.shape, generator=generator) < share, vocabulary)
        loss = nn.functional.nll_loss(net(nn.functional.one_hot(x, vocabulary + 1).float()), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def _guided(
    system: System[Any, Any],
    splits: Splits,
    labels: list[Tensor],
    budget: Budget,
    seed: int,
    out: Path | None,
    talk: Talk,
) -> tuple[list[Row], int]:
    """Write windows with and without guidance towards each translation; another classifier, of other books, reads them.

    Returns: The rows, and the network calls that the writing took.
    """
    vocabulary = system.process.vocabulary
    guide = classifier(splits.train.data, labels[0], vocabulary, seed, masked=True, steps=budget.reader_steps)
    judge = classifier(splits.validation.data, labels[1], vocabulary, seed + 1, masked=False, steps=budget.reader_steps)
    real = splits.test.take(1000).data.long()
    with torch.no_grad():
        share = float((judge(_hot(real, vocabulary)).argmax(1) == labels[2][:1000]).double().mean())
    rows = [single("judge: right on held-out text", share, len(real))]
    found: dict[str, list[float]] = {}
    lines, calls = [], 0
    for n in range(budget.seeds):
        for wanted in (0, 1):
            for name, scale in (("unguided", 0.0), ("guided", SCALE)):

                def towards(hot: Tensor, k: int = wanted) -> Tensor:
                    log_p: Tensor = guide(hot)[:, k]
                    return log_p

                made, used = _written(system, towards, scale, budget.written, key(seed, "written", n, wanted))
                calls += used
                with torch.no_grad():
                    right = float((judge(_hot(made, vocabulary)).argmax(1) == wanted).double().mean())
                    nats = BlockOrder(system.process, EqualBlocks(1))(
                        system.denoiser, made, None, rng=SharedRng(0)
                    ).rows
                found.setdefault(f"{name}: read as asked", []).append(right)
                found.setdefault(f"{name}: own bits a byte", []).append(float(nats.double().mean()) / math.log(2))
                lines += (
                    [f"{name} towards {('kjv', 'bbe')[wanted]}: {corpus.text(row.numpy())!r}" for row in made[:4]]
                    if n == 0
                    else []
                )
        talk(
            f"guidance: read as asked {found['guided: read as asked'][-1]:.2f}, "
            f"unguided {found['unguided: read as asked'][-1]:.2f}"
        )
    if out is not None:
        from condiff.train.atomic import write_atomically

        write_atomically(out / "guided.txt", ("\n".join(lines) + "\n").encode())
    rows += [over_seeds(name, values, "", budget.written * len(values)) for name, values in found.items()]
    return rows, calls


def _written(system: System[Any, Any], judge: Any, scale: float, num: int, seed: int) -> tuple[Tensor, int]:  # noqa: ANN401
    """Write windows in blocks of 8, a token a call, each tilted by a reader of the text so far; count the calls."""
    counted: list[Counted] = []

    def around(denoiser: Any, texts: Tensor) -> Any:  # noqa: ANN401
        counted.append(Counted(denoiser))
        return Classified(counted[-1], system.process, judge, scale, BestTokens(16), texts)

    pieces = write_blocks(system, num_samples=num, length=LENGTH, seed=seed, num_steps=8, around=around)
    return _stacked(pieces, LENGTH), sum(one.calls for one in counted)


def _hot(ids: Tensor, vocabulary: int) -> Tensor:
    return nn.functional.one_hot(ids.long(), vocabulary + 1).float()


def _remembered(system: System[Any, Any], seed: int, num: int = 4) -> list[Row]:
    """Write with memory and by reading everything again, and count tokens that differ and calls a token."""
    rows = []
    for size, steps in ((1, 1), (8, 4), (8, 8), (16, 4)):
        per = (steps + 1) / size
        rows.append(single(f"calls a token, blocks of {size}, {steps} calls", per, 1, "calls"))
    began = time.process_time()
    kept = _stacked(write_blocks(system, num_samples=num, length=LENGTH, seed=seed, num_steps=8), LENGTH)
    with_memory = time.process_time() - began
    began = time.process_time()
    again = _read_again(system, num, seed)
    without = time.process_time() - began
    rows.append(single("tokens that differ with memory", float((kept != again).sum()), num * LENGTH))
    rows.append(single("time without memory over with", without / max(with_memory, 1e-9), num, "x"))
    return rows


def _stacked(pieces: Iterable[list[Tensor]], length: int) -> Tensor:
    """Join the pieces of every text, one that ended early filled with the end-of-text token."""
    texts = [torch.cat(parts) for parts in zip(*list(pieces), strict=True)]
    return torch.stack([nn.functional.pad(text, (0, length - len(text)), value=corpus.PAD) for text in texts])


@torch.no_grad()
def _read_again(system: System[Any, Any], num: int, seed: int) -> Tensor:
    """Write as `write_blocks` does, but with the whole text so far put through the network at every call."""
    process, size = system.process, 8
    net, text = _net(system), torch.empty(num, 0, dtype=torch.int64)
    for block in range(LENGTH // size):
        known = text

        def denoise(x: Tensor, t: Tensor, cond: Any, known: Tensor = known) -> Any:  # noqa: ANN401
            whole = torch.cat([known, x], 1)
            place = torch.arange(whole.shape[1]).clamp_max(known.shape[1])  # the new block sees itself whole
            mask = (place[:, None] >= place[None])[None, None]
            hidden = net.body.features(net.embed(whole), torch.zeros(()), None, mask=mask)
            return Categorical(reveal(net.head(hidden[:, known.shape[1] :]), x, process.mask))

        rng = RowRng(seed, [key("row", b, "block", block) for b in range(num)])
        made = sample(process, denoise, system.solver, (num, size), system.grid(size), rng=rng)
        text = torch.cat([text, made], 1)
    ended = (text == corpus.PAD).cumsum(1) > 0
    return text.masked_fill(ended, corpus.PAD)


def _net(system: System[Any, Any]) -> TokenDiT:
    net = blockwise(system).net
    assert isinstance(net, TokenDiT)
    return net
