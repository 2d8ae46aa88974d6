"""Two towers and one: who reads whom, what each reduces to, masking, and what may be kept between steps."""

from __future__ import annotations

import pytest
import torch
from nn.nets import normal, scrambled
from torch import nn

from condiff.core import Condition, RowRng, instant, sample
from condiff.core.condition import ClassLabel, Picture, TokenIds
from condiff.nn import DiTSize, EmbeddingSpace, EncoderDecoder, OneTower, Parallel, Spiral, TwoTower
from condiff.process import Embedded, Gaussian, Recalling, Rounding, Table, Uniform
from condiff.solvers import Jump

SIZE = DiTSize(16, 3, head_width=8)
SCHEMA = {"input": TokenIds(6, 9)}
READS = {"spiral": Spiral(), "parallel": Parallel(), "encdec": EncoderDecoder()}
PAD = 8


def tower(read, *, depth=3, recalls=False, schema=None, dtype=torch.float32):
    size = DiTSize(16, depth, head_width=8)
    net = TwoTower(EmbeddingSpace(9, 4), size, read, recalls=recalls, schema=schema or SCHEMA, pad=PAD)
    return scrambled(net).to(dtype)


def joint(**options):
    return scrambled(OneTower(EmbeddingSpace(9, 4), SIZE, schema=SCHEMA, pad=PAD, **options))


def inputs(rows=2, dtype=torch.float32):
    x = normal(rows, 5, 4, dtype=dtype)
    ids = torch.randint(8, (rows, 6), generator=torch.Generator().manual_seed(3))
    ids[0, 4:] = PAD
    return x, torch.linspace(0.2, 0.9, rows), Condition.of(input=ids)


NETS = {**{name: lambda read=read: tower(read) for name, read in READS.items()}, "joint": joint}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_information_flow(read):
    """dE_N/dz_t is non-zero in spiral and exactly 0 in encdec/parallel; dD_1/dc is not 0 in spiral/parallel."""
    net = tower(read)
    x, t, cond = inputs()
    x.requires_grad_()
    sources, targets = net.layers(x, t, cond)
    assert len(sources) == len(targets) == 3
    if read.looks:
        (slope,) = torch.autograd.grad(sources[-1].sum(), x, retain_graph=True)
        assert bool((slope.abs().flatten(1).sum(1) > 1e-3).all())
    else:
        assert not sources[-1].requires_grad or torch.autograd.grad(sources[-1].sum(), x, allow_unused=True)[0] is None
    # Does the first target layer know the source? Change a word and see; all three read it.
    other = Condition.of(input=torch.where(cond.values["input"] == 1, 2, 1))
    changed = (net.layers(x, t, other)[1][0] - targets[0]).abs().flatten(1).amax(1)
    assert bool((changed > 1e-4).all())


def test_first_source_layer_sees_the_raw_noisy_target():
    net = tower(Spiral(), depth=1)
    x, t, cond = inputs()
    x.requires_grad_()
    sources, _ = net.layers(x, t, cond)
    for place in range(5):
        (slope,) = torch.autograd.grad(sources[0][0, 0].sum(), x, retain_graph=True)
        assert float(slope[0, place].abs().sum()) > 1e-4
        assert float(slope[1].abs().sum()) == 0.0


def test_encdec_reads_the_last_layer_and_parallel_the_one_beside():
    assert [EncoderDecoder().level(k, 3) for k in (1, 2, 3)] == [3, 3, 3]
    assert [Parallel().level(k, 3) for k in (1, 2, 3)] == [Spiral().level(k, 3) for k in (1, 2, 3)] == [1, 2, 3]


def test_spiral_without_its_upward_reading_is_parallel_and_then_encdec():
    """Zero the output projections of the encoder's cross-attention: bit-equal to `parallel` of the same weights."""
    spiral, parallel = tower(Spiral()), tower(Parallel())
    with torch.no_grad():
        for block in spiral.sources:
            nn.init.zeros_(block.cross.out.weight)
            nn.init.zeros_(block.cross.out.bias)
    weights = {
        name: value for name, value in spiral.state_dict().items() if not ("sources" in name and "cross" in name)
    }
    parallel.load_state_dict(weights)
    x, t, cond = inputs()
    assert torch.equal(spiral(x, t, cond), parallel(x, t, cond))
    encdec = tower(EncoderDecoder())
    encdec.load_state_dict(weights)
    sources, _ = parallel.layers(x, t, cond)
    fed = Condition.of(
        **{f"source.{k}": sources[-1] for k in (1, 2, 3)},
        **{"source.seen": parallel.encode(cond).values["source.seen"]},
    )
    assert torch.equal(parallel(x, t, fed), encdec(x, t, cond))
    assert not torch.equal(parallel(x, t, cond), encdec(x, t, cond))


@pytest.mark.parametrize("name", ["encdec", "parallel"])
def test_encoder_caching_gives_the_same_ids(name):
    net = tower(READS[name], recalls=True)
    process = Embedded(Recalling(Gaussian(Table.square_root(50))), 4, 9)
    denoiser = Rounding(net, process)
    cond = inputs()[2]
    grid = Uniform()(process.schedule, 6)

    class Unkept(nn.Module):
        def forward(self, x, t, cond):
            return denoiser(x, t, cond)

    kept, plain = (
        sample(process, one, Jump(), (2, 5), grid, cond=cond, rng=RowRng(0, range(2))) for one in (denoiser, Unkept())
    )
    assert torch.equal(kept, plain)
    assert set(net.encode(cond).values) == {"source.1", "source.2", "source.3", "source.seen"}


def test_spiral_refuses_to_keep_what_changes_with_every_step():
    net = tower(Spiral())
    assert not net.cacheable
    with pytest.raises(ValueError, match="changes with every step"):
        net.encode(inputs()[2])


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
@torch.no_grad()
def test_padding_is_not_seen(make):
    """Changing padded source ids or appending source padding leaves the output unchanged (< 1e-6)."""
    net = make()
    x, t, cond = inputs()
    ids, out = cond.values["input"], net(x, t, cond)
    longer = torch.cat([ids, torch.full((2, 3), PAD)], 1)
    assert float((net(x, t, Condition.of(input=longer)) - out).abs().max()) < 1e-6
    # What stands under the padding is not even looked up: here the mask is given instead, by presence.
    absent = Condition({"input": ids}, {"input": torch.tensor([False, True])})
    wild = ids.clone()
    wild[0] = torch.tensor([7, 1, 0, 3, 2, 5])
    null = net(x, t, absent)
    assert torch.equal(net(x, t, Condition({"input": wild}, absent.present)), null)
    torch.testing.assert_close(null[1], out[1])
    torch.testing.assert_close(null[0], net(x, t, None)[0])
    assert float((null[0] - out[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
@torch.no_grad()
def test_order_is_in_the_places(make):
    """Permuting source tokens together with their positions leaves D unchanged; without them it does not."""
    net = make().double()
    x, t, cond = inputs(dtype=torch.float64)
    ids, order = cond.values["input"], torch.tensor([3, 0, 5, 1, 4, 2])
    out = net(x, t, cond)
    moved = Condition.of(input=ids[:, order])
    torch.testing.assert_close(net(x, t, moved, places=order), out)
    assert float((net(x, t, moved) - out).abs().max()) > 1e-3


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
@torch.no_grad()
def test_rows_do_not_see_each_other_and_fresh_networks_return_zero(make):
    net = make()
    x, t, cond = inputs(3)
    out = net(x, t, cond)
    for k in range(3):
        torch.testing.assert_close(net(x[k : k + 1], t[k : k + 1], cond.rows(torch.tensor([k])))[0], out[k])
    torch.testing.assert_close(net(x, instant(0.3), cond), net(x, torch.full((3,), 0.3), cond))
    fresh = type(net)(EmbeddingSpace(9, 4), SIZE, *([net.read] if hasattr(net, "read") else []), schema=SCHEMA)
    assert not fresh(x, t, cond).any()


@pytest.mark.parametrize("read", [*READS.values(), None], ids=[*READS, "joint"])
def test_nothing_recalled_is_no_self_conditioning(read):
    """prev=0 or its weights zeroed == no self-conditioning."""
    told = tower(read, recalls=True) if read else joint(recalls=True)
    plain = tower(read) if read else joint()
    weights = dict(told.state_dict())
    weights["entry.target.0.weight"] = weights["entry.target.0.weight"][:, :4]
    plain.load_state_dict(weights)
    x, t, cond = inputs()
    last = normal(2, 5, 4, seed=9)
    torch.testing.assert_close(told(torch.cat([x, torch.zeros_like(x)], -1), t, cond), plain(x, t, cond))
    with torch.no_grad():
        told.entry.target[0].weight[:, 4:] = 0.0
    torch.testing.assert_close(told(torch.cat([x, last], -1), t, cond), plain(x, t, cond))


@torch.no_grad()
def test_time_reaches_the_source_only_if_it_is_told_or_looks():
    x, t, cond = inputs()
    for read, expected in ((Spiral(told=True), True), (Spiral(), False)):
        net = tower(read, depth=1)
        with torch.no_grad():
            for block in net.sources:  # what it could see of the time through the target is closed
                nn.init.zeros_(block.cross.out.weight)
        early, late = (net.layers(x, one, cond)[0][0] for one in (t, 1.0 - t))
        assert (float((early - late).abs().max()) > 1e-3) is expected
    assert not Parallel().told
    assert not EncoderDecoder().told


@torch.no_grad()
def test_a_class_beside_the_text_is_heard_and_what_cannot_be_read_is_refused():
    schema = {**SCHEMA, "label": ClassLabel(3)}
    x, t, cond = inputs()
    for read in READS.values():
        net = tower(read, schema=schema)
        one, other = (net(x, t, cond.adding(label=torch.tensor([k, k]))) for k in (0, 1))
        assert float((one - other).abs().max()) > 1e-3
        if net.cacheable:
            both = cond.adding(label=torch.tensor([0, 0]))
            torch.testing.assert_close(net(x, t, net.encode(both)), one)
    size, space = DiTSize(16, 1, head_width=8), EmbeddingSpace(9, 4)
    with pytest.raises(ValueError, match="Picture"):
        TwoTower(space, size, Spiral(), schema={"input": Picture(1)})
    with pytest.raises(ValueError, match="2 of them are texts"):
        TwoTower(space, size, Spiral(), schema={"a": TokenIds(3, 9), "b": TokenIds(3, 9)})
    with pytest.raises(ValueError, match="share one space"):
        OneTower(space, size, schema={"input": TokenIds(3, 5)})
    net = tower(Spiral())
    with pytest.raises(ValueError, match=r"\(B, L, 4\)"):
        net(x[..., :3], t, cond)
    with pytest.raises(ValueError, match="unknown condition"):
        net(x, t, Condition.of(other=torch.zeros(2)))
    with pytest.raises(ValueError, match="source text"):
        net(x, t, Condition.of(input=torch.zeros(2, 3)))


def test_vectors_that_are_there_stay_and_are_saved_once():
    space = EmbeddingSpace(9, 4)
    before = space.table.weight.clone()
    net = TwoTower(space, SIZE, Spiral(), schema=SCHEMA)
    assert torch.equal(net.space.table.weight, before)
    assert sum(value.shape == (9, 4) for value in net.state_dict().values()) == 1


def test_sizes_at_the_published_scale():
    """Wanted at large scale only: shapes and parameter counts of 6 + 6 layers of 768, 12 heads, 128 per token."""
    size, schema = DiTSize(768, 6), {"input": TokenIds(128, 30522)}
    counts = {}
    with torch.device("meta"):
        for name in ("spiral", "encdec"):
            net = TwoTower(EmbeddingSpace(30522, 128), size, READS[name], recalls=True, schema=schema)
            counts[name] = sum(p.numel() for p in net.parameters())
            assert sum(p.numel() for p in net.entry.space.parameters()) == 30522 * 129
    cross = 6 * (4 * 768 * 768 + 4 * 768)
    assert counts["spiral"] - counts["encdec"] == cross
    assert 1.12 < counts["spiral"] / counts["encdec"] < 1.16
