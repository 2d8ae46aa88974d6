"""Keys and values of earlier blocks, carried by the condition: the memory of a rollout is data, not a state of the net.

| name                                  | shape         | meaning                                                   |
| ------------------------------------- | ------------- | --------------------------------------------------------- |
| `context.<layer>.k`, `context.<layer>.v` | (B, P, width) | keys and values of earlier tokens, the oldest first       |
| `context.length`                      | (B,) int64    | frames or tokens that row b holds; the rest of P is filler |
| `context.position`                    | (B,) int64    | place of the next frame or token in the whole sequence    |
| `context.last`                        | (B, width)    | what the last layer reads of the newest of them, if kept  |

A row in which any of these names is absent has no context. Whoever forgets old frames cuts keys and values, lowers
`context.length` and leaves `context.position` as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from condiff.core.condition import Condition

PREFIX = "context."
"""How the names of a context start."""

LAST = f"{PREFIX}last"


@final
@dataclass(frozen=True, slots=True)
class Context:
    """What a network remembers of earlier blocks.

    Args:
        layers: Keys and values (B, P, width) of every layer, zero where there is only filler; empty if there are none.
        length: Number of frames or tokens held by each row, (B,).
        position: Place of the next frame or token, (B,).
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    length: Tensor
    position: Tensor

    def valid(self, cells: int) -> Tensor:
        """Return a bool (B, P): is this key real? There are `cells` keys in each frame, one in each token."""
        return _valid(self.length, cells, self.layers[0][0].shape[1])


def read(cond: Condition | None, depth: int, x: Tensor, cells: int) -> Context:
    """Read the context of a condition, with zeros in place of filler, so that not even a NaN there is seen.

    Args:
        cond: The condition.
        depth: Number of layers of the network.
        x: The state, (B, ...), for which rows there are and where they live.
        cells: Number of keys in each frame, 1 for tokens.

    Raises:
        ValueError: If some of the names are missing, or a name beginning with `context.` belongs to no layer.
    """
    names = [] if cond is None else [name for name in cond.values if name.startswith(PREFIX) and name != LAST]
    if cond is None or not names:
        nothing = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        return Context((), nothing, nothing)
    wanted = [f"{PREFIX}{i}.{part}" for i in range(depth) for part in "kv"]
    wanted += [f"{PREFIX}length", f"{PREFIX}position"]
    odd = sorted(set(names) ^ set(wanted))
    if odd:
        raise ValueError(
            f"a context of {depth} layers has the names {wanted[0]} to {wanted[-3]}, {wanted[-2]} and {wanted[-1]}; "
            f"{odd[0]!r} is {'missing' if odd[0] in wanted else 'not one of them'}. Make contexts with remember()"
        )
    present = torch.stack([cond.present[name] for name in wanted]).all(0)
    length, position = (torch.where(present, cond.values[name], 0) for name in wanted[-2:])
    real = _valid(length, cells, cond.values[wanted[0]].shape[1])[..., None]
    kept = [torch.where(real, cond.values[name], 0) for name in wanted[:-2]]
    return Context(list(zip(kept[::2], kept[1::2], strict=True)), length, position)


def _valid(length: Tensor, cells: int, slots: int) -> Tensor:
    return torch.arange(slots, device=length.device) < cells * length[:, None]


def extend(
    cond: Condition | None, context: Context, kept: Sequence[tuple[Tensor, Tensor]], times: int, last: Tensor
) -> Condition:
    """Append keys and values to the context of a condition, right behind what each row already holds.

    Args:
        cond: The condition.
        context: Its context.
        kept: New keys and values (B, N, width) of every layer.
        times: Number of frames or tokens these belong to.
        last: What the last layer reads of the newest, (B, width).

    Returns: The condition with a context that is longer by `times` in every row.
    """
    batch, new, width = kept[0][0].shape
    cells = new // times
    start = context.length * cells
    slots = start[:, None] + torch.arange(new, device=start.device)
    values: dict[str, Tensor] = {}
    for i, pair in enumerate(kept):
        for part, fresh, j in zip("kv", pair, (0, 1), strict=True):
            filler = fresh.new_zeros(batch, new, width)
            longer = torch.cat([context.layers[i][j].to(fresh.dtype), filler], 1) if context.layers else filler
            values[f"{PREFIX}{i}.{part}"] = longer.scatter(1, slots[..., None].expand(-1, -1, width), fresh)
    values[f"{PREFIX}length"] = context.length + times
    values[f"{PREFIX}position"] = context.position + times
    values[LAST] = last
    return Condition.of(**values) if cond is None else cond.adding(**values)
