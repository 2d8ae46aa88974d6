"""Block diffusion over tokens: blocks are written from left to right, the tokens of a block in any order.

log p(x) = sum over blocks of log p(block | blocks before it), each term bounded by masked diffusion within the block.
Blocks of one token are an autoregressive model and its exact likelihood; one block is masked diffusion.

Source: Arriola et al. 2025 (BD3-LM), for blocks of any sizes, a partition for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor, nn

from condiff.core.condition import Condition
from condiff.core.estimate import Categorical
from condiff.core.rng import Rng
from condiff.process.absorbing import Absorbing, TimeFree, Unmasked, reveal


class Paired(Protocol):
    """A token network that predicts all blocks of a sequence in one pass, and remembers finished ones."""

    def paired(self, x: Tensor, data: Tensor, blocks: Tensor, cond: Condition | None) -> Tensor:
        """Return logits (B, L, V) of noised ids x (B, L), each block given the clean blocks before it."""
        ...

    def beside(self, x: Tensor, blocks: Tensor, memory: Condition) -> Tensor:
        """Return the logits of `paired`, (B, L, V), next to clean ids (B, L) that the memory holds."""
        ...

    def newest(self, memory: Condition | None) -> Tensor:
        """Return what a memory holds of its newest token, (B, S); zeros (1, S) of no memory."""
        ...

    def remember(
        self, cond: Condition | None, x: Tensor, t: Tensor | None = None, *, block: int | None = None
    ) -> Condition:
        """Add clean ids (B, k) to a condition, each seeing its own block of them."""
        ...


@final
class Blockwise(nn.Module):
    """A network read as a denoiser of one block after what the condition remembers, and of all blocks in one pass.

    Args:
        net: A `Paired` and `Headed` network, such as `TokenDiT` with causal blocks. It is never told the time.
        process: The absorbing process.
        size: Tokens of a block when nothing else is asked for.
    """

    def __init__(self, net: nn.Module, process: Absorbing, size: int = 8) -> None:
        super().__init__()
        self.plain, self.process, self.size = Unmasked(TimeFree(net), process), process, size

    @property
    def net(self) -> Paired:
        """The network itself."""
        return self.plain.net.net  # type: ignore[return-value]

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None) -> Categorical:
        """Estimate the clean tokens of a block of ids x (B, k), after the blocks that the condition remembers."""
        est: Categorical = self.plain(x, t, cond)
        return est

    def paired(self, x: Tensor, data: Tensor, blocks: Tensor, cond: Condition | None) -> Categorical:
        """Estimate all blocks of ids x (B, L) in one pass, each given the clean blocks before it."""
        return Categorical(reveal(self.net.paired(x, data, blocks, cond), x, self.process.mask))

    def beside(self, x: Tensor, blocks: Tensor, memory: Condition) -> Categorical:
        """Estimate all blocks of ids x (B, L), each given the blocks before it in the memory of the clean (B, L)."""
        return Categorical(reveal(self.net.beside(x, blocks, memory), x, self.process.mask))

    def remember(self, cond: Condition | None, x: Tensor) -> Condition:
        """Add finished ids (B, k) to a condition, one block or many: what is kept does not depend on the cut."""
        return self.net.remember(cond, x, block=1)


def block_ids(sizes: Sequence[int]) -> Tensor:
    """Return the number of every token's block, int64 (L,), for block sizes that add up to L."""
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


class Partitions(Protocol):
    """How training sequences are cut into blocks."""

    def draw(self, shape: Sequence[int], *, rng: Rng) -> Tensor:
        """Return the number of every token's block, int64 (B, L)."""
        ...


@final
@dataclass(frozen=True)
class EqualBlocks:
    """Blocks of one size, the last one shorter if it must be.

    Args:
        size: Tokens in a block, >= 1.
        start: Size of the first block, 0 to size; 0 is none.
    """

    size: int
    start: int = 0

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.start <= self.size:
            raise ValueError(f"EqualBlocks needs size >= 1 and 0 <= start <= size, got {self.size} and {self.start}")

    def draw(self, shape: Sequence[int], *, rng: Rng) -> Tensor:
        """Return block numbers (B, L); nothing is drawn."""
        return self.numbers(shape)

    def numbers(self, shape: Sequence[int]) -> Tensor:
        """Return block numbers, int64 (B, L)."""
        place = torch.arange(shape[1]) - self.start
        return (torch.div(place, self.size, rounding_mode="floor") + 1).expand(*shape[:2])


@final
@dataclass(frozen=True)
class RandomBlocks:
    """Half of the rows have blocks of one size drawn from a list, the others a size of its own for every block.

    Where every block has its own, a size is drawn with a chance of 1 / size: so that about as many tokens are in blocks
    of every size. With equal chances a third of all tokens would be in blocks longer than the last size but one.

    Args:
        sizes: The sizes, each >= 1; they are all that a policy may ask for later.

    Source: ours, after the fixed sizes of Arriola et al. 2025: one network for every partition.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"RandomBlocks needs sizes of at least 1, got {self.sizes}")

    def draw(self, shape: Sequence[int], *, rng: Rng) -> Tensor:
        """Return block numbers (B, L)."""
        batch, length = shape[0], shape[1]
        table = torch.tensor(self.sizes)
        u = rng.uniform((batch, length + 2)).cpu()
        often = (1.0 / table).cumsum(0)
        free = table[torch.searchsorted(often, u[:, 2:] * often[-1], right=True).clamp_max(len(table) - 1)]
        equal = table[(u[:, 1] * len(table)).long().clamp_max(len(table) - 1)]
        sizes = torch.where((u[:, 0] < 0.5)[:, None], equal[:, None], free)
        ends = sizes.cumsum(1)
        return torch.searchsorted(ends, torch.arange(length).expand(batch, length).contiguous(), right=True)
