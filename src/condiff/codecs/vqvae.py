"""A vector-quantised autoencoder: pictures as a grid of ids, by networks trained before the diffusion model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pixel_shuffle, pixel_unshuffle, silu

from condiff.codecs.tokens import k_means, nearest
from condiff.core.condition import Condition

BATCH, RATE, COMMITMENT = 64, 1e-2, 0.25
DECAY, DEAD = 0.95, 0.03
"""Of the averages an entry follows, and the share of its fair number of cells below which it is moved."""
NUMBERS = 2**26
"""Numbers of the pictures that are kept in memory for training."""


@final
class VQAutoencoder(nn.Module):
    """Every cell of p x p pixels becomes the id of a code, which two networks write and read among its neighbours.

    z = E(x); id = argmin_k |z - book_k|^2; x' = D(book_id); ids run row by row, (B, H / p * W / p)

    `learn` minimises |x - D(q)|^2 + commitment |z - stop(q)|^2, q = book_id, and hands the gradient of q on to z as it
    is (straight through). Entries follow what falls to them: count_k <- decay count_k + (1 - decay) n_k, the sums
    likewise, book_k = sum_k / count_k; one to which nearly nothing falls any more moves to some z of the batch. The
    first quarter of the steps rounds nothing, and k-means on what E then writes is the first book.

    Weights are buffers: training a diffusion model leaves them alone. They are saved as a part of its denoiser.

    Args:
        shape: (C, H, W), sides divisible by p.
        num: K, entries of the book, at least 2.
        patch: p, pixels a side of a cell.
        width: Channels of both networks, which have two residual blocks each and see 5 cells around.
        features: Numbers of an entry.
        steps: Training steps, each on 64 pictures.

    Raises:
        ValueError: If a number is out of range, or the sides do not divide.

    Source: van den Oord et al. 2017 (VQ-VAE), eq. 3 with commitment 0.25, and appendix A.1 for the book; entries are
        revived as in Dhariwal et al. 2020 (Jukebox). Theirs begins with a random book and rounds from the first step.
    """

    book: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        num: int = 128,
        patch: int = 4,
        *,
        width: int = 32,
        features: int = 16,
        steps: int = 1000,
    ) -> None:
        super().__init__()
        channels, height, across = shape
        if patch < 1 or height % patch or across % patch:
            raise ValueError(f"cells of {patch} do not divide pictures of {height}x{across}")
        if num < 2 or min(width, features, steps) < 1:
            raise ValueError(
                f"VQAutoencoder needs num >= 2 and positive numbers, got {num=}, {width=}, {features=}, {steps=}"
            )
        self.shape, self.num, self.patch, self.steps = (channels, height, across), num, patch, steps
        self._make: Callable[[], _Nets] = lambda: _Nets(channels, patch, width, features)
        self.nets = _fixed(self._make())
        self.register_buffer("book", torch.zeros(num, features))

    @property
    def length(self) -> int:
        """Number of tokens of a picture."""
        return math.prod(self.shape[1:]) // self.patch**2

    @torch.no_grad()
    def encode(self, x: Tensor, cond: Condition | None = None) -> Tensor:
        """Return ids (B, L), int64."""
        z = self.nets.write(x.float())
        return nearest(_cells(z), self.book).reshape(len(x), -1)

    @torch.no_grad()
    def decode(self, z: Tensor, cond: Condition | None = None) -> Tensor:
        """Return pictures (B, C, H, W) in [-1, 1]; ids beyond the book (a mask that is left) are its first entry."""
        rows, columns = (side // self.patch for side in self.shape[1:])
        codes = self.book[torch.where(z < self.num, z, 0).long()].reshape(len(z), rows, columns, -1).permute(0, 3, 1, 2)
        return self.nets.read(codes).clamp(-1.0, 1.0)

    def learn(self, batches: Callable[[], Iterable[tuple[Tensor, Condition]]]) -> None:
        """Train networks and book on pictures (N, C, H, W) in [-1, 1], from the weights as they are.

        Args:
            batches: Starts a pass over the pictures; of many, an even share is looked at.
        """
        data = _thinned(batches(), NUMBERS // math.prod(self.shape))
        with torch.enable_grad():
            self._train(data)

    def _train(self, data: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):  # initial weights, which the next line replaces
            nets = self._make().to(data.device)
        nets.load_state_dict(self.nets.state_dict())
        optimizer = torch.optim.Adam(nets.parameters(), lr=RATE, betas=(0.9, 0.99))
        free = self.steps // 4  # steps that round nothing, so that the book begins at what an encoder would write
        count = total = torch.empty(0)
        for step in range(self.steps):
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, (step + 1) / 50) * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
            x = data[torch.randint(len(data), (BATCH,), generator=generator)]
            if step == free:
                with torch.no_grad():
                    some = _cells(nets.write(data[torch.randperm(len(data), generator=generator)[:1000]]))
                    found = k_means(some.cpu(), self.num, rounds=10, generator=generator)
                    self.book.copy_(found[torch.arange(self.num) % len(found)])  # again where there are too few
                count, total = torch.ones(self.num, device=x.device), self.book.clone()
            z = nets.write(x)
            if step < free:
                loss = mse_loss(nets.read(z), x)
            else:
                cells = _cells(z.detach())
                ids = nearest(cells, self.book)
                q = self.book[ids].reshape(len(x), *z.shape[2:], -1).permute(0, 3, 1, 2)
                loss = mse_loss(nets.read(z + (q - z).detach()), x) + COMMITMENT * mse_loss(z, q)
                fell = torch.bincount(ids, minlength=self.num).to(cells.dtype)
                count = DECAY * count + (1.0 - DECAY) * fell
                total = DECAY * total + (1.0 - DECAY) * torch.zeros_like(total).index_add_(0, ids, cells)
                dead = (count < DEAD * len(cells) / self.num)[:, None]
                some = cells[torch.randint(len(cells), (self.num,), generator=generator).to(cells.device)]
                count = torch.where(dead[:, 0], torch.ones_like(count), count)
                total = torch.where(dead, some, total)
                self.book.copy_(total / count[:, None])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        self.nets.load_state_dict(nets.state_dict())


class _Nets(nn.Module):
    """An encoder and a decoder that work on the grid of cells, so that a picture costs no more than its tokens."""

    def __init__(self, channels: int, patch: int, width: int, features: int) -> None:
        super().__init__()
        pixels = channels * patch**2
        self.patch = patch
        self.enter, self.leave = nn.Conv2d(pixels, width, 1), nn.Conv2d(width, features, 1)
        self.begin, self.end = nn.Conv2d(features, width, 1), nn.Conv2d(width, pixels, 1)
        self.writing = nn.ModuleList([_Block(width) for _ in range(2)])
        self.reading = nn.ModuleList([_Block(width) for _ in range(2)])

    def write(self, x: Tensor) -> Tensor:
        """Return (B, D, H / p, W / p) of pictures (B, C, H, W)."""
        h = self.enter(pixel_unshuffle(x, self.patch))
        for block in self.writing:
            h = block(h)
        out: Tensor = self.leave(h)
        return out

    def read(self, q: Tensor) -> Tensor:
        """Return pictures of what was written."""
        h = self.begin(q)
        for block in self.reading:
            h = block(h)
        return pixel_shuffle(self.end(h), self.patch)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.near, self.mix = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.mix(silu(self.near(silu(h))))
        return out


def _fixed(nets: _Nets) -> _Nets:
    """Turn every parameter into a buffer of its name: saved and moved like one, but never trained or sharded."""
    for module in nets.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, value.detach())
    return nets


def _cells(z: Tensor) -> Tensor:
    """Return (B L, D) of a grid (B, D, rows, columns)."""
    return z.permute(0, 2, 3, 1).flatten(0, 2)


def _thinned(batches: Iterable[tuple[Tensor, Condition]], most: int) -> Tensor:
    """Join rows, thinned out evenly so that few more than `most` are ever kept: data may be sorted by class."""
    parts: list[Tensor] = []
    every = 1
    for x, _ in batches:
        parts.append(x[::every].float())
        if sum(map(len, parts)) > most:
            parts, every = [torch.cat(parts)[::2]], 2 * every
    return torch.cat(parts)
