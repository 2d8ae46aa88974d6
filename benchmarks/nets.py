"""G8, G9, G10, G12: what a forward pass reaches of the machine, and against a neighbour's network of the same plan."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from benchmarks.paired import Effort, Row, ratio, sweep
from torch import Size, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from condiff.nn import Conv3d, DiT, DiTSize, Grid, UNet, UNetSize, has_bf16, prepare

PLAN = UNetSize((32, 64, 128), num_blocks=2, attention=(2,), embed_width=128)
"""The small U-Net on which the goals were set: 32 x (1, 2, 4), two blocks a level, attention at 8x8."""


def flops(run: Callable[[], object]) -> int:
    """Count the floating point operations of a call, 2 a multiply-add; packed layers are not seen."""

    def attention(q: Size, k: Size, v: Size, *_: object, **__: object) -> int:
        return sdpa_flop_count(q, k, v)

    missing = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}  # PyTorch's list lacks it
    with FlopCounterMode(display=False, custom_mapping=missing) as counter:
        run()
    return counter.get_total_flops()


def peak() -> tuple[Callable[[], Tensor], int]:
    """Return the workload that shows the practical peak of a core: a wide convolution on oneDNN, and its operations."""
    x, layer = torch.randn(4, 320, 32, 32), nn.Conv2d(320, 320, 3, padding=1)
    x, layer = x.to(memory_format=torch.channels_last), layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = torch.no_grad()(lambda: layer(x))
    return run, flops(run)


def filled(net: nn.Module) -> nn.Module:
    """Give a fresh network's zero layers values, so that its output can be compared."""
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim > 1 and not p.any():
                nn.init.normal_(p, std=0.5 * p[0].numel() ** -0.5)
    return net.eval().requires_grad_(False)


def forward(net: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Return a call of a network at time 0.5 of every row."""
    t = torch.full((x.shape[0],), 0.5)
    return torch.no_grad()(lambda: net(x, t))


def rival() -> nn.Module:
    """Build diffusers' U-Net of the same plan."""
    from diffusers.utils import import_utils

    try:
        import torchvision  # noqa: F401
    except Exception:  # built for another torch, or absent: diffusers needs it for nothing here
        import_utils._torchvision_available = False
    from diffusers import UNet2DModel

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = UNet2DModel(
                sample_size=32,
                in_channels=3,
                out_channels=3,
                layers_per_block=2,
                block_out_channels=(32, 64, 128),
                down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
                attention_head_dim=32,
            )

        def forward(self, x: Tensor, t: Tensor, cond: object = None) -> Tensor:
            return self.net(x, t, return_dict=False)[0]

    return Called()


def in_bf16(value: float) -> float:
    """Return a reading of bf16; nan, not measured, where the processor has no products in it."""
    return value if has_bf16() else math.nan


def _error(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


def measure(effort: Effort) -> list[Row]:
    """Return the rows of G8, G9, G10 and G12."""
    return [*_transformer(effort), *_unet(effort), *_volumes(effort)]


def _transformer(effort: Effort) -> list[Row]:
    rows = []
    size, least = DiTSize(384, effort.pick(4, 2)), effort.pick(100, 10) / 1e3
    net = filled(DiT(Grid(4), size, patch=2))
    fast, low = prepare(net), prepare(net, dtype=torch.bfloat16)
    top, top_flops = peak()
    for batch in (1, 4):
        x = torch.randn(batch, 4, 32, 32)
        plain, full, half = forward(net, x), forward(fast, x), forward(low, x)
        readings = sweep({"peak": top, "plain": plain, "fp32": full, "bf16": half}, effort.rounds, least)
        case, work = f"DiT {size.depth} x 384, batch {batch}", flops(plain) / top_flops
        if batch == 1:
            note = f"{ratio(readings, 'peak', 'plain') * work:.2f} as built, {ratio(readings, 'plain', 'fp32'):.2f}x"
            rows.append(Row("G8", f"{case}, fp32, prepared: share of a wide convolution's rate",
                            ratio(readings, "peak", "fp32") * work, 0.70, above=True, note=note))  # fmt: skip
        note = f"{ratio(readings, 'fp32', 'bf16'):.2f} against prepared fp32"
        rows.append(Row("G9", f"{case}: prepared in bf16 against fp32 as built",
                        in_bf16(ratio(readings, "plain", "bf16")), 1.7, above=True, note=note))  # fmt: skip
    rows.append(Row("G9", "DiT: relative error of bf16", _error(half(), plain()), 1.5e-2))
    return rows


def _unet(effort: Effort) -> list[Row]:
    rows, least = [], effort.pick(100, 10) / 1e3
    wide = filled(UNet(Grid(3), UNetSize((64, 128), attention=(1,), embed_width=256)))
    fast, low = prepare(wide), prepare(wide, dtype=torch.bfloat16)
    for batch, limit in ((1, 1.7), (effort.pick(16, 4), 2.2)):
        x = torch.randn(batch, 3, 32, 32)
        plain, full, half = forward(wide, x), forward(fast, x), forward(low, x)
        readings = sweep({"plain": plain, "fp32": full, "bf16": half}, effort.rounds, least)
        rows.append(Row("G9", f"U-Net 64 x (1, 2), batch {batch}: prepared in bf16 against fp32 as built, contiguous",
                        in_bf16(ratio(readings, "plain", "bf16")), limit, above=True, bound=1.2,
                        note=f"{ratio(readings, 'fp32', 'bf16'):.2f} against prepared fp32"))  # fmt: skip
    rows.append(Row("G9", "U-Net: relative error of bf16", _error(half(), plain()), 1.5e-2))

    small = filled(UNet(Grid(3), PLAN))
    x = torch.randn(1, 3, 32, 32)
    plain = forward(small, x)
    calls = {"ours": forward(prepare(small), x), "bf16": forward(prepare(small, dtype=torch.bfloat16), x)}
    try:
        theirs = filled(rival())
    except ImportError as error:
        return [
            *rows,
            Row("G10", "U-Net, batch 1", math.nan, 1.1, above=True, neighbours={"diffusers": f"skipped: {error}"}),
        ]
    calls["diffusers"] = forward(theirs, x)
    last = copy.deepcopy(theirs).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    calls["diffusers, channels last"] = forward(last, x.to(memory_format=torch.channels_last))
    work = flops(plain) / flops(calls["diffusers"])
    readings = sweep(calls, effort.rounds, least)
    near: dict[str, float | str] = {name: ratio(readings, name, "ours") for name in calls if name.startswith("diff")}
    note = f"{flops(plain) / 1e9:.2f} GF against {flops(calls['diffusers']) / 1e9:.2f}"
    # Rates, not times: a network that does less work must not win by it.
    for name, case, limit in (("ours", "fp32", 1.1), ("bf16", "bf16", 1.6)):
        rate = {other: work * ratio(readings, other, name) for other in near}
        value = rate["diffusers"] if name == "ours" else in_bf16(rate["diffusers"])
        rows.append(Row("G10", f"U-Net 32 x (1, 2, 4), batch 1, prepared, {case}: rate over diffusers UNet2DModel, fp32",
                        value, limit, above=True, neighbours=near if name == "ours" else {}, bound=0.9,
                        note=f"{note}; {rate['diffusers, channels last']:.2f} over theirs channels last"))  # fmt: skip
    return rows


def _volumes(effort: Effort) -> list[Row]:
    rows = []
    top, top_flops = peak()
    for channels, shape in ((32, (16, 16, 16)), (64, (8, 32, 32)), (16, (20, 64, 16))):
        layer = Conv3d(channels, channels, 3, padding=1).requires_grad_(False)
        plain = nn.Conv3d(channels, channels, 3, padding=1).requires_grad_(False)
        x = torch.randn(1, channels, *shape)
        calls = {"ours": torch.no_grad()(lambda: layer(x)), "plain": torch.no_grad()(lambda: plain(x)), "peak": top}  # noqa: B023 - used at once
        readings = sweep(calls, effort.pick(9, 3), effort.pick(50, 5) / 1e3)
        size = f"{channels} channels, {'x'.join(map(str, shape))}"
        share = ratio(readings, "peak", "ours") * flops(calls["plain"]) / top_flops
        rows.append(Row("G12", f"conv3d, batch 1, {size}: times faster than ATen's own path",
                        ratio(readings, "plain", "ours"), 3.0, above=True, bound=1.5))  # fmt: skip
        rows.append(Row("G12", f"conv3d, batch 1, {size}: share of a wide convolution's rate", share, 85 / 108,
                        above=True, bound=0.4))  # fmt: skip
    return rows
