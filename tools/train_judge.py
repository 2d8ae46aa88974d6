"""Train the digit judges that ship with the package, from the digits that ship with it.

    python tools/train_judge.py [--small] [--out judge.safetensors] [--epochs 50] [--seed 0]

--small trains the one for digits at 8x8, which sees every digit jittered before it is shrunk.

Rows 0-7999 train, rows 8000-8999 validate, rows 9000-9999 are the test set, which is read once, after everything is
chosen. Batch norm is used in training only and folded into the convolutions before saving. Takes a few CPU-minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from condiff.data import Dataset, Splits, read
from condiff.data.digits import shrink
from condiff.evaluate.judge import WEIGHTS, WEIGHTS8, Judge, Judge8


class Trainee(nn.Module):
    """The judge with a batch norm after every convolution and dropout before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = Judge()
        self.norms = nn.ModuleList(nn.BatchNorm2d(conv.out_channels) for conv in self.judge.convs)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (B, 10)."""
        for conv, norm in zip(self.judge.convs, self.norms, strict=True):
            x = functional.relu(norm(conv(x)))
        x = functional.relu(self.judge.hidden(functional.adaptive_avg_pool2d(x, 2).flatten(1)))
        return self.judge.head(self.dropout(x))

    @torch.no_grad()
    def folded(self) -> Judge:
        """Return a Judge equal to this network in evaluation."""
        out = Judge()
        out.load_state_dict(self.judge.state_dict())
        for conv, norm in zip(out.convs, self.norms, strict=True):
            gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            conv.bias.copy_(norm.bias + (conv.bias - norm.running_mean) * gain)
            conv.weight.mul_(gain[:, None, None, None])
        return out


class SmallTrainee(nn.Module):
    """The judge of 8x8 digits with dropout before the head; it shrinks what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.judge, self.dropout = Judge8(), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (B, 10)."""
        return self.judge.head(self.dropout(self.judge.features(shrink(x))))

    def folded(self) -> Judge8:
        """Return the judge itself."""
        return self.judge


def jitter(x: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Move each image a little: rotation to 13 degrees, scale to 13 %, shear to 0.15, shift to 2.2 pixels."""
    u = strength * (torch.rand((6, len(x)), generator=generator) * 2.0 - 1.0)
    angle = u[0] * math.radians(13.0)
    wide, high, shear = 1.0 + 0.13 * u[1], 1.0 + 0.13 * u[2], 0.15 * u[3]
    cos, sin = angle.cos(), angle.sin()
    shift = u[4:] * 2.2 / 14.0
    theta = torch.stack(
        [
            torch.stack([cos * wide, (shear * cos - sin) * high, shift[0]], -1),
            torch.stack([sin * wide, (shear * sin + cos) * high, shift[1]], -1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x + 1.0, grid, align_corners=False) - 1.0  # outside is black, -1


def train(data: Splits, seen: Splits, *, small: bool, epochs: int, seed: int, batch: int = 100) -> Judge | Judge8:
    """Train on the training rows; print the validation accuracy, on what the judge will see, after every epoch."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    net = SmallTrainee() if small else Trainee()
    x, y = data.train.data, data.train.conditions["label"]
    steps = epochs * math.ceil(len(x) / batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.0, betas=(0.9, 0.99), weight_decay=0.02)
    peak, step, begin = 4e-3, 0, time.perf_counter()
    for epoch in range(epochs):
        net.train()
        for rows in torch.split(torch.randperm(len(x), generator=generator), batch):
            rate = peak * min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = rate
            loss = functional.cross_entropy(
                net(jitter(x[rows], generator, 0.5 if small else 1.0)), y[rows], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        net.eval()
        right = accuracy(net.folded(), seen.validation)
        seconds = time.perf_counter() - begin
        print(f"epoch {epoch + 1:2d}  loss {loss.item():.3f}  validation {right:.4f}  {seconds:.0f} s", flush=True)
    return net.eval().folded()


def accuracy(net: Judge | Judge8, data: Dataset) -> float:
    """Return the share of images read right."""
    return float((net.classify(data.data) == data.conditions["label"]).double().mean())


def main() -> None:
    """Train, measure once on the test rows with the stored precision, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the judge of digits at 8x8")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out = args.out or Path(str(resources.files("condiff.evaluate") / (WEIGHTS8 if args.small else WEIGHTS)))
    data = read("digits")
    seen = read("digits8") if args.small else data
    net = train(data, seen, small=args.small, epochs=args.epochs, seed=args.seed)
    state = {name: value.to(torch.float16).contiguous() for name, value in net.state_dict().items()}
    net.load_state_dict({name: value.float() for name, value in state.items()})  # measure what is stored
    facts = {
        "what": "condiff digit judge" + (", 8x8" if args.small else ""),
        "data": "MNIST subset of 10,000 digits (mnist10k.npz), images scaled to [-1, 1]",
        "split": "train rows 0-7999, validation rows 8000-8999, test rows 9000-9999",
        "training": f"AdamW, {args.epochs} epochs, batch 100, affine jitter, label smoothing 0.05, seed {args.seed}",
        "validation_accuracy": f"{accuracy(net, seen.validation):.4f}",
        "test_accuracy": f"{accuracy(net, seen.test):.4f}",
        "licence": "weights Apache-2.0; trained on MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0",
        "made_by": "tools/train_judge.py",
    }
    partial = args.out.with_name(args.out.name + ".partial")
    with partial.open("wb") as file:
        file.write(save(state, {"facts": json.dumps(facts)}))  # one key: several come in random order
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, args.out)
    print(
        f"{args.out}: {args.out.stat().st_size} bytes, {facts['validation_accuracy']} validation, "
        f"{facts['test_accuracy']} test"
    )


if __name__ == "__main__":
    main()
