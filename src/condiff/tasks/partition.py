"""Which block size comes next: a small decision problem with an exact solution, exact gradients and estimates of them.

A text of L tokens is cut into blocks from left to right. A block of size k that starts at place p costs `cost[p, k]`,
what it is worth is the sum, and in teacher-forced text the state depends on the place only. So the best partition is
found by dynamic programming, and the mean cost of a random policy, with its gradient, by one backward sweep.

Source: Huang and Tang 2025 (CtrlDiff) for a learned block size; its paper's details could not be read, so cost, policy
and estimators are our own reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.rng import Rng, key, pick
from condiff.process.blocks import Blockwise, EqualBlocks


@final
@dataclass(frozen=True)
class PartitionMDP:
    """Costs of blocks by place and size.

    Args:
        cost: (..., L, A), cost[..., p, a] of a block of sizes[a] tokens at place p; what is past the end is ignored.
        sizes: The sizes, rising; the first must be 1, so that every place has a way on.
    """

    cost: Tensor
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] != 1 or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"block sizes must rise from 1, got {self.sizes}")
        if self.cost.ndim < 2 or self.cost.shape[-1] != len(self.sizes):
            raise ValueError(f"cost has shape {tuple(self.cost.shape)}, expected (..., L, {len(self.sizes)})")

    @property
    def length(self) -> int:
        """L, tokens of a text."""
        return self.cost.shape[-2]

    def remaining(self) -> Tensor:
        """Return the number of tokens from every place on, int64 (L,)."""
        return torch.arange(self.length, 0, -1, device=self.cost.device)

    def allowed(self) -> Tensor:
        """Return which sizes fit at which place, bool (L, A)."""
        place = torch.arange(self.length, device=self.cost.device)
        return place[:, None] + torch.tensor(self.sizes, device=self.cost.device) <= self.length

    def log_policy(self, logits: Tensor) -> Tensor:
        """Return log pi (..., L, A) of logits, with no chance for sizes that do not fit."""
        return torch.log_softmax(logits.masked_fill(~self.allowed(), -torch.inf), -1)

    def expected(self, logits: Tensor) -> Tensor:
        """Return the mean cost of a policy, (...,), differentiable: J(p) = sum_k pi(k | p) (C(p, k) + J(p + k))."""
        policy = self.log_policy(logits).exp()
        # Once for all places: one product and one sum a place are left for the sweep.
        own = (policy * self.cost.masked_fill(~self.allowed(), 0.0)).sum(-1)
        ahead = [torch.zeros_like(own[..., 0])] * (self.length + 1)
        for p in range(self.length - 1, -1, -1):
            # Where a size does not fit, its chance is 0.
            after = torch.stack([ahead[min(p + size, self.length)] for size in self.sizes], -1)
            ahead[p] = own[..., p] + (policy[..., p, :] * after).sum(-1)
        return ahead[0]

    def optimal(self) -> tuple[Tensor, Tensor]:
        """Return the least cost of a text (...,) in hindsight, and the best size's index at every place (..., L)."""
        shape = self.cost.shape[:-2]
        ahead = [self.cost.new_zeros(shape)] * (self.length + 1)
        choice = torch.zeros(*shape, self.length, dtype=torch.int64, device=self.cost.device)
        for p in range(self.length - 1, -1, -1):
            ways = torch.stack(
                [
                    self.cost[..., p, a] + ahead[p + size]
                    if p + size <= self.length
                    else self.cost.new_full(shape, torch.inf)
                    for a, size in enumerate(self.sizes)
                ],
                -1,
            )
            ahead[p], choice[..., p] = ways.min(-1)
        return ahead[0], choice

    def fixed(self, size: int) -> Tensor:
        """Return the cost (...,) of blocks of one size, and of the largest that still fits at the end."""
        if size not in self.sizes:
            raise ValueError(f"{size} is none of the block sizes {self.sizes}")
        total, p = self.cost.new_zeros(self.cost.shape[:-2]), 0
        while p < self.length:
            a = max(i for i, one in enumerate(self.sizes) if one <= min(size, self.length - p))
            total, p = total + self.cost[..., p, a], p + self.sizes[a]
        return total

    def rollout(self, logits: Tensor, count: int, *, rng: Rng) -> Rollout:
        """Draw partitions from a policy.

        Args:
            logits: (N, L, A), with costs (N, L, A).
            count: G, partitions of each text.
            rng: One uniform for each text, partition and place.

        Returns: Costs, log-probabilities and choices.
        """
        log_pi = self.log_policy(logits)
        n, length, _ = log_pi.shape
        u = rng.uniform((n, count, length)).to(log_pi.device)
        rows, table = torch.arange(n, device=log_pi.device), torch.tensor(self.sizes, device=log_pi.device)
        place = torch.zeros(n, count, dtype=torch.int64, device=log_pi.device)
        cost = self.cost.new_zeros(n, count)
        log_p = log_pi.new_zeros(n, count)
        entropy = log_pi.new_zeros(n, count)
        visited = torch.full((n, count, length), -1, dtype=torch.int64, device=log_pi.device)
        for _ in range(length):
            going = place < length
            at = place.clamp_max(length - 1)
            here = log_pi[rows[:, None], at]
            chosen = pick(here.detach(), u.gather(2, at[..., None])[..., 0])
            cost = cost + torch.where(going, self.cost[rows[:, None], at].gather(-1, chosen[..., None])[..., 0], 0.0)
            log_p = log_p + torch.where(going, here.gather(-1, chosen[..., None])[..., 0], 0.0)
            spread = -(here.exp() * here.clamp_min(-1e9)).sum(-1)
            entropy = entropy + torch.where(going, spread, 0.0)
            visited.scatter_(
                2, at[..., None], torch.where(going, chosen, visited.gather(2, at[..., None])[..., 0])[..., None]
            )
            place = torch.where(going, place + table[chosen], place)
        return Rollout(cost, log_p, entropy, visited)


@final
@dataclass(frozen=True)
class Rollout:
    """Partitions that were drawn.

    Args:
        cost: (N, G).
        log_p: Log-probability of each (N, G), differentiable.
        entropy: Sum of the policy's entropies along the way (N, G), differentiable.
        choices: Index of the size taken at every place where a block begins, -1 elsewhere, (N, G, L).
    """

    cost: Tensor
    log_p: Tensor
    entropy: Tensor
    choices: Tensor


def reinforce(rollout: Rollout, *, normalise: bool = False) -> Tensor:
    """Return a scalar whose gradient estimates that of the mean cost without bias.

    1 / (G - 1) sum over g of (J_g - mean J) log pi_g, averaged over texts

    Args:
        rollout: G >= 2 partitions of every text.
        normalise: Divide by the group's standard deviation, which scales the gradient of each text (GRPO).

    Source: Williams 1992, with the mean of the group as baseline: hence G - 1. Shao et al. 2024 for the
        normalised form.
    """
    group = rollout.cost.shape[1]
    if group < 2:
        raise ValueError("a group needs at least 2 partitions to have a baseline")
    ahead = rollout.cost - rollout.cost.mean(1, keepdim=True)
    if normalise:
        ahead = ahead / rollout.cost.std(1, keepdim=True).clamp_min(1e-8)
    return (ahead.detach() * rollout.log_p).sum(1).mean() / (group - 1)


def proximal(mdp: PartitionMDP, logits: Tensor, rollout: Rollout, *, clip: float = 0.2, bonus: float = 0.01) -> Tensor:
    """Return the clipped loss of a policy on partitions that an older one drew (PPO).

    mean of max(r A, clip(r, 1 - clip, 1 + clip) A) - bonus entropy, A = J - mean J over the group, r = pi / pi_old

    Source: Schulman et al. 2017, for a cost that is to be small.
    """
    log_pi = mdp.log_policy(logits)
    taken = rollout.choices.clamp_min(0)
    chosen = log_pi[:, None].expand(*taken.shape, log_pi.shape[-1]).gather(-1, taken[..., None])[..., 0]
    begun = rollout.choices >= 0
    ratio = (torch.where(begun, chosen, 0.0).sum(-1) - rollout.log_p.detach()).exp()
    ahead = (rollout.cost - rollout.cost.mean(1, keepdim=True)).detach()
    worst = torch.maximum(ratio * ahead, ratio.clamp(1.0 - clip, 1.0 + clip) * ahead)
    spread = -(log_pi.exp() * log_pi.clamp_min(-1e9)).sum(-1)[:, None]
    return (worst - bonus * torch.where(begun, spread, 0.0).sum(-1)).mean()


@torch.no_grad()
def one_shot_nats(denoiser: Blockwise, data: Tensor, sizes: Sequence[int], cond: Condition | None = None) -> Tensor:
    """Measure what a block costs when it is written in one call, nats (B, L, A).

    Q(p, k) = sum over i in p to p + k - 1 of -log p(x_i | x before p, all of the block masked)

    What is charged over the exact likelihood is the dependence within the block that writing it at once ignores. All
    places take sum(sizes) passes, one for every size and offset, next to a clean text that is read once.

    Args:
        denoiser: A block denoiser.
        data: Ids (B, L).
        sizes: Block sizes.
        cond: The condition.
    """
    hidden, memory = torch.full_like(data, denoiser.process.mask), denoiser.remember(cond, data)
    return _summed(data, sizes, lambda blocks: _nats(denoiser, hidden, data, blocks, memory))


def step_nats(
    denoiser: Blockwise,
    data: Tensor,
    sizes: Sequence[int],
    num_steps: int,
    cond: Condition | None = None,
    *,
    rng: Rng,
) -> Tensor:
    """Estimate what a block costs when it is written in a number of calls, nats (B, L, A).

    Q(p, k) = sum over steps t to s of (t - s) / t E sum over the block's masked tokens of -log p(x_i | what is seen),
    t = 1, 1 - 1/S, ..., 1/S; every token is masked with chance t

    The discrete bound of `EqualBlocks` blocks on a linear grid: with one step it is `one_shot_nats`, with many it falls
    to the bound of the continuous process, by about 1 / S. One mask is drawn for each step, size and offset: average
    several calls, or use it as an unbiased cost.

    Args:
        denoiser: A block denoiser.
        data: Ids (B, L).
        sizes: Block sizes.
        num_steps: S, calls a block, >= 1.
        cond: The condition.
        rng: Source of the masks.

    Raises:
        ValueError: If the number of steps is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"a block takes at least one step, got {num_steps}")

    memory = denoiser.remember(cond, data)

    def cost(blocks: Tensor) -> Tensor:
        total = torch.zeros(data.shape, device=data.device)
        for left in range(num_steps, 0, -1):
            masked = rng.uniform(data.shape).to(data.device) < left / num_steps
            x = data.masked_fill(masked, denoiser.process.mask)
            total = total + torch.where(masked, _nats(denoiser, x, data, blocks, memory), 0.0) / left
        return total

    return _summed(data, sizes, cost)


def _nats(denoiser: Blockwise, x: Tensor, data: Tensor, blocks: Tensor, memory: Condition) -> Tensor:
    est = denoiser.beside(x, blocks, memory)
    return -torch.log_softmax(est.logits, -1).gather(-1, data.unsqueeze(-1)).squeeze(-1)


def _summed(data: Tensor, sizes: Sequence[int], cost: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum the costs (B, L) of tokens over every block of every size; infinite where a block would not fit."""
    length = data.shape[1]
    out = data.new_full((*data.shape, len(sizes)), torch.inf, dtype=torch.float32)
    for a, size in enumerate(sizes):
        for start in range(size):
            whole = (length - start) // size
            if whole:
                nats = cost(EqualBlocks(size, start).numbers(data.shape).contiguous())
                sums = nats[:, start : start + whole * size].unflatten(1, (whole, size)).sum(2)
                out[:, start : start + whole * size : size, a] = sums
    return out


class BlockPolicy(Protocol):
    """Chooses the size of the next block."""

    @property
    def asks(self) -> bool:
        """Does it read the entropy, at the price of one more call a block?"""
        ...

    def size(self, state: Tensor, entropy: Tensor, remaining: int) -> Tensor:
        """Return sizes (B,) for what the network makes of the text so far (B, W) and the next token's entropy (B,)."""
        ...


@final
@dataclass(frozen=True)
class FixedSize:
    """Always the same size, or what remains.

    Args:
        tokens: The size.
    """

    tokens: int

    @property
    def asks(self) -> bool:
        """Return False."""
        return False

    def size(self, state: Tensor, entropy: Tensor, remaining: int) -> Tensor:
        """Return sizes (B,)."""
        return torch.full((len(state),), min(self.tokens, remaining), dtype=torch.int64)


@final
@dataclass(frozen=True)
class EntropySize:
    """The surer the next token, the larger the block: the largest size whose limit the entropy does not exceed.

    Args:
        sizes: Sizes, rising from 1.
        limits: Largest entropy in nats of each size but the first, falling.
    """

    sizes: tuple[int, ...]
    limits: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.limits) != len(self.sizes) - 1 or list(self.limits) != sorted(self.limits, reverse=True):
            raise ValueError("EntropySize needs falling limits, one for each size but the first")

    @property
    def asks(self) -> bool:
        """Return True."""
        return True

    def size(self, state: Tensor, entropy: Tensor, remaining: int) -> Tensor:
        """Return sizes (B,)."""
        fits = torch.stack([entropy <= limit for limit in (torch.inf, *self.limits)], 1)
        fits &= torch.tensor(self.sizes) <= remaining
        return torch.tensor(self.sizes)[fits.long().cumsum(1).argmax(1)]


@final
class LearnedSize(nn.Module):
    """A two-layer perceptron on what the network keeps of the newest token, and on how much text remains.

    Args:
        width: Features of a state.
        sizes: Sizes, rising from 1.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.enter, self.out = nn.Linear(width, 64), nn.Linear(64, len(sizes))
        # What remains matters where it is about as short as a block: a vector for each length to twice the largest.
        self.left = nn.Embedding(2 * sizes[-1] + 1, 64)
        nn.init.zeros_(self.left.weight)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def forward(self, states: Tensor, remaining: Tensor) -> Tensor:
        """Return logits (..., A) of states (..., W) with a number of tokens to go, int64, broadcastable to (...,)."""
        left = self.left(remaining.clamp_max(self.left.num_embeddings - 1))
        out: Tensor = self.out(torch.tanh(self.enter((states - self.mean) / self.spread) + left))
        return out

    @property
    def asks(self) -> bool:
        """Return False."""
        return False

    @torch.no_grad()
    def size(self, state: Tensor, entropy: Tensor, remaining: int) -> Tensor:
        """Return the likeliest sizes (B,) that fit."""
        fits = torch.tensor(self.sizes) <= remaining
        logits = self(state, torch.tensor(remaining))
        return torch.tensor(self.sizes)[logits.masked_fill(~fits, -torch.inf).argmax(-1)]


def before(states: Tensor) -> Tensor:
    """Shift what the network makes of prefixes (B, L, W) so that place p has what it made of the p tokens before it."""
    return torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)


def learn(
    policy: LearnedSize,
    mdp: PartitionMDP,
    states: Tensor,
    *,
    held: tuple[PartitionMDP, Tensor] | None = None,
    steps: int = 400,
    learning_rate: float = 3e-3,
    batch_size: int = 64,
    seed: int = 0,
    talk: Callable[[int, float], None] | None = None,
) -> LearnedSize:
    """Train a policy by the exact gradient of its mean cost; the network it reads stays as it is.

    It begins close to the size that is the best fixed one, and never ends worse than that on texts held out.

    Args:
        policy: The policy; trained in place.
        mdp: Costs (N, L, A) of N texts.
        states: What the network keeps of what is before each place, (N, L, W).
        held: Costs and states of other texts: of all weights looked at, every twentieth of the steps, those are kept
            whose likeliest sizes cost least there. If None, the last ones.
        steps: Steps of Adam; the rate falls to 0 along a cosine.
        learning_rate: Its first rate.
        batch_size: Texts a step.
        seed: Names the order of the texts.
        talk: Told step and mean cost.
    """
    states = states.expand(*mdp.cost.shape[:-1], -1)
    flat = states.flatten(0, -2)
    fixed = torch.stack([mdp.fixed(size).mean() for size in mdp.sizes])
    with torch.no_grad():
        policy.mean.copy_(flat.mean(0))
        policy.spread.copy_(flat.std(0) + 1e-3)
        policy.out.weight.mul_(0.1)
        policy.out.bias.copy_(-3.0 * (torch.arange(len(mdp.sizes)) - fixed.argmin()).abs())
    optimizer = torch.optim.Adam(policy.parameters(), learning_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(key(seed, "texts"))
    best, kept = torch.inf, None
    for step in range(steps + 1):
        if held is not None and (step % max(1, steps // 20) == 0 or step == steps):
            found = float(greedy_cost(policy, *held).mean())
            if found < best:
                best, kept = found, {name: value.clone() for name, value in policy.state_dict().items()}
        if step == steps:
            break
        index = torch.randperm(len(states), generator=generator)[:batch_size]
        part = PartitionMDP(mdp.cost[index], mdp.sizes)
        cost = part.expected(policy(states[index], part.remaining())).mean()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        falling.step()
        if talk is not None:
            talk(step, float(cost.detach()))
    if kept is not None:
        policy.load_state_dict(kept)
    return policy


@torch.no_grad()
def greedy_cost(policy: LearnedSize, mdp: PartitionMDP, states: Tensor) -> Tensor:
    """Return what texts cost (N,) in the sizes that a policy takes, the likeliest that fit, given states (N, L, W)."""
    logits = policy(states, mdp.remaining()).masked_fill(~mdp.allowed(), -torch.inf)
    taken = nn.functional.one_hot(logits.argmax(-1), len(mdp.sizes))
    return mdp.expected(taken.to(mdp.cost.dtype).log())
