"""The bound of block diffusion, all blocks of all rows in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from condiff.core.condition import Condition
from condiff.core.estimate import Categorical
from condiff.core.objective import Loss
from condiff.core.process import Draw
from condiff.core.rng import Rng
from condiff.process.absorbing import Absorbing
from condiff.process.blocks import Blockwise, Partitions


@final
@dataclass(frozen=True)
class BlockOrder:
    """In every block, n of its k tokens are masked, n uniform on 1 to k: the any-order loss of each block.

    loss_b = (1 / L) sum over blocks of (k / n) sum over its masked tokens of -log p(token | blocks before, visible)

    Its mean bounds -log p(x) / L for every partition; with blocks of one token it is -log p(x) / L exactly. The
    lambda-weighted loss of Arriola et al. has the same mean and more noise.

    Args:
        process: The absorbing process.
        partitions: How sequences are cut into blocks.

    Source: Arriola et al. 2025 (BD3-LM), with the any-order form of Ou et al. 2025 (RADD) within a block.
    """

    process: Absorbing
    partitions: Partitions

    def __call__(
        self,
        denoiser: Any,  # noqa: ANN401 - Blockwise, or an exact one with `paired`
        data: Tensor,
        cond: Condition | None,
        *,
        rng: Rng,
        draw: Draw | None = None,
    ) -> Loss:
        """Return the bound of token ids data (B, L), nats a token.

        Raises:
            TypeError: If the denoiser cannot predict all blocks in one pass.
        """
        if not hasattr(denoiser, "paired"):
            raise TypeError(f"BlockOrder needs a denoiser with `paired`, such as {Blockwise.__name__}")
        draw = self.draw(data, rng=rng) if draw is None else draw
        masked, blocks, weight = (draw.latents[name] for name in ("masked", "blocks", "weight"))
        est: Categorical = denoiser.paired(draw.x, data, blocks, cond)
        nats = -torch.log_softmax(est.logits, -1).gather(-1, data.unsqueeze(-1)).squeeze(-1)
        return Loss((torch.where(masked, nats, 0.0) * weight).mean(1))

    def draw(self, data: Tensor, *, rng: Rng) -> Draw:
        """Cut data (B, L) into blocks and mask some tokens of each.

        Returns: The draw, with latents "data", "masked", "blocks", and "weight", k / n of each token's block.
        """
        blocks = self.partitions.draw(data.shape, rng=rng).to(data.device)
        same = (blocks[:, :, None] == blocks[:, None, :]).to(torch.float64)
        size = same.sum(2)
        u = rng.uniform((*data.shape, 2)).to(data.device)
        # One number for each block: that of its first token.
        first = same.argmax(2)
        count = (u[..., 0].gather(1, first) * size).floor() + 1.0
        rank = (same * (u[:, None, :, 1] < u[:, :, None, 1])).sum(2)
        masked = rank < count
        latents = {"data": data, "masked": masked, "blocks": blocks, "weight": (size / count).float()}
        return Draw(data.masked_fill(masked, self.process.mask), torch.ones(len(data), dtype=torch.float64), latents)
