"""CtrlDiff's exact oracles 1 and 2: masks, memory, and the bound for every partition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tasks.test_partition import EVERY, P, Table

from condiff.core import Condition, Draw, RowRng, SharedRng, sample
from condiff.nn import DiTSize, TokenDiT
from condiff.nn.attention import block_causal, paired_mask
from condiff.objectives import AnyOrder, BlockOrder
from condiff.process import Absorbing, Blockwise, EqualBlocks, RandomBlocks, TimeFree, Unmasked, block_ids
from condiff.solvers import Ordered
from condiff.tasks.partition import one_shot_nats

V, L = 5, 12
PROCESS = Absorbing(V)
CUTS = {"equal": [4, 4, 4], "ragged": [1, 5, 2, 4], "one": [12], "ones": [1] * 12}


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = TokenDiT(V, DiTSize(16, 2, head_width=8), block=1 << 30)
        for weight in net.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return Blockwise(net.double().eval(), PROCESS)


DATA = torch.randint(0, V, (2, L), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a1_the_pass_over_all_blocks_equals_each_block_after_its_memory(cut):
    """Logits of block b from the 2 L pass equal those of the block alone after remembering what came before."""
    denoiser, blocks = network(), block_ids(cut).expand(2, L)
    x = torch.where(torch.rand(2, L, generator=torch.Generator().manual_seed(2)) < 0.6, V, DATA)
    whole = denoiser.paired(x, DATA, blocks, None).logits
    cond, at = None, 0
    for size in cut:
        here = slice(at, at + size)
        alone = denoiser(x[:, here], torch.ones((), dtype=torch.float64), cond).logits
        hidden = x[:, here] == V
        torch.testing.assert_close(alone[hidden], whole[:, here][hidden], atol=1e-10, rtol=1e-10)
        cond, at = denoiser.remember(cond, DATA[:, here]), at + size


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a1_noised_tokens_next_to_a_memory_equal_the_pass_with_its_clean_copy(cut):
    """All blocks next to one memory of the whole text, which they see up to their own begin: twice the same logits."""
    denoiser, blocks = network(), block_ids(cut).expand(2, L)
    x = torch.where(torch.rand(2, L, generator=torch.Generator().manual_seed(2)) < 0.6, V, DATA)
    memory = denoiser.remember(None, DATA)
    whole = denoiser.paired(x, DATA, blocks, None).logits
    torch.testing.assert_close(denoiser.beside(x, blocks, memory).logits, whole, atol=1e-10, rtol=1e-10)
    for wrong in (denoiser.remember(None, DATA[:, :4]), denoiser.remember(memory, DATA[:, :4]), Condition.of()):
        with pytest.raises(ValueError, match="memory of as many"):
            denoiser.beside(x, blocks, wrong)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a1_the_cache_equals_the_prefix_read_again(cut):
    """The block after its memory equals [prefix, block] in one pass: a causal prefix, and a block that sees all."""
    denoiser = network()
    net = denoiser.net
    for size, at in zip(cut, [0, *itertools.accumulate(cut)], strict=False):
        text = torch.cat([DATA[:, :at], torch.full((2, size), V)], 1)
        here = torch.cat([torch.arange(at), torch.full((size,), at)])
        mask = (here[:, None] >= here[None])[None, None]
        hidden = net.body.features(net.embed(text), torch.zeros(()), None, mask=mask)
        cond, p = None, 0
        for k in cut:
            if p < at:
                cond, p = denoiser.remember(cond, DATA[:, p : p + k]), p + k
        alone = denoiser(text[:, at:], torch.ones((), dtype=torch.float64), cond).logits
        again = torch.log_softmax(net.head(hidden[:, at:]), -1)
        torch.testing.assert_close(alone, again, atol=1e-9, rtol=1e-9)


def test_a3_costs_next_to_one_memory_are_those_of_every_block_alone():
    """The shared clean half saves work and changes nothing: each block after the memory of its own prefix."""
    denoiser = network()
    nats = one_shot_nats(denoiser, DATA, (1, 3, 8))
    for p, (a, size) in itertools.product(range(L), enumerate((1, 3, 8))):
        if p + size > L:
            assert torch.isinf(nats[:, p, a]).all()
            continue
        known = denoiser.remember(None, DATA[:, :p]) if p else None
        logits = denoiser(torch.full((2, size), V), torch.ones((), dtype=torch.float64), known).logits
        alone = -torch.log_softmax(logits, -1).gather(-1, DATA[:, p : p + size, None]).sum((1, 2))
        torch.testing.assert_close(nats[:, p, a], alone.float(), atol=1e-5, rtol=1e-5)


def test_a1_later_blocks_and_other_noise_change_nothing():
    """Bit for bit: any token of a later block, and the noised copy of any other block."""
    denoiser, blocks = network(), block_ids(CUTS["ragged"]).expand(2, L)
    x = torch.full((2, L), V)
    base = denoiser.paired(x, DATA, blocks, None).logits[:, 6:8]
    later = DATA.clone()
    later[:, 8:] = (later[:, 8:] + 1) % V
    noise = x.clone()
    noise[:, :6], noise[:, 8:] = 0, 1
    assert torch.equal(denoiser.paired(x, later, blocks, None).logits[:, 6:8], base)
    assert torch.equal(denoiser.paired(noise, DATA, blocks, None).logits[:, 6:8], base)
    earlier = DATA.clone()
    earlier[:, 2] = (earlier[:, 2] + 1) % V
    assert not torch.equal(denoiser.paired(x, earlier, blocks, None).logits[:, 6:8], base)


def test_how_the_text_before_was_cut_changes_nothing():
    """So that costs and states of a partition depend on the place alone, as `PartitionMDP` takes for granted."""
    denoiser = network()
    x = torch.full((2, L), V)
    logits = [
        denoiser.paired(x, DATA, block_ids([*cut, 4]).expand(2, L), None).logits[:, 8:] for cut in ([8], [1, 5, 2])
    ]
    assert torch.equal(*logits)
    whole, parts = denoiser.remember(None, DATA[:, :8]), denoiser.remember(None, DATA[:, :1])
    parts = denoiser.remember(parts, DATA[:, 1:8])
    for name, value in whole.values.items():
        torch.testing.assert_close(parts.values[name], value, atol=1e-10, rtol=1e-10)


def test_the_paired_mask_by_hand():
    mask = paired_mask(torch.tensor([[0, 1, 1]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1],
    ]  # fmt: skip
    assert torch.equal(paired_mask(torch.arange(4)[None])[0, 0, 4:, 4:], block_causal(4, 1, torch.device("cpu")))


def test_a2_blocks_of_one_are_the_autoregressive_likelihood():
    """Every draw is exact: n = k = 1, and the loss is the causal network's -log p."""
    denoiser = network()
    loss = BlockOrder(PROCESS, EqualBlocks(1))
    rows = loss(denoiser, DATA, None, rng=SharedRng(0)).rows
    logits = denoiser.paired(torch.full((2, L), V), DATA, torch.arange(L).expand(2, L), None).logits
    exact = -torch.log_softmax(logits, -1).gather(-1, DATA[..., None])[..., 0].mean(1)
    torch.testing.assert_close(rows, exact)
    assert torch.equal(rows, loss(denoiser, DATA, None, rng=SharedRng(1)).rows)


def test_a2_one_block_is_the_any_order_loss():
    """The same masks give the same number as masked diffusion without blocks."""
    denoiser = network()
    draw = BlockOrder(PROCESS, EqualBlocks(L)).draw(DATA, rng=SharedRng(4))
    ours = BlockOrder(PROCESS, EqualBlocks(L))(denoiser, DATA, None, rng=SharedRng(0), draw=draw).rows
    plain = Unmasked(TimeFree(denoiser.net), PROCESS)
    theirs = AnyOrder(PROCESS)(plain, DATA, None, rng=SharedRng(0), draw=draw).rows
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-6)


@pytest.mark.parametrize("cut", [[1, 1, 1], [1, 2], [2, 1], [3]])
def test_a2_with_exact_conditionals_the_bound_is_the_likelihood_for_every_partition(cut):
    """The mean over the number n and the place of the masks, enumerated block by block, is -log p(x)."""
    objective, table, blocks = BlockOrder(Absorbing(3), EqualBlocks(1)), Table(P), block_ids(cut).expand(27, 3)
    total = torch.zeros(27, dtype=torch.float64)
    for block, size in enumerate(cut):
        places = [i for i in range(3) if blocks[0, i] == block]
        for n in range(1, size + 1):
            for chosen in itertools.combinations(places, n):
                masked = torch.zeros(27, 3, dtype=torch.bool)
                masked[:, list(chosen)] = True
                weight = torch.full((27, 3), size / n)
                latents = {"data": EVERY, "masked": masked, "blocks": blocks, "weight": weight}
                draw = Draw(EVERY.masked_fill(masked, 3), torch.ones(27), latents)
                rows = objective(table, EVERY, None, rng=SharedRng(0), draw=draw).rows
                total += 3 * rows / size / math.comb(size, n)
    torch.testing.assert_close(total, -P.flatten().log())


def test_draws_mask_n_of_k_tokens_of_every_block_each_n_as_often():
    objective = BlockOrder(PROCESS, EqualBlocks(4))
    data = torch.zeros(3000, 8, dtype=torch.int64)
    latents = objective.draw(data, rng=SharedRng(0)).latents
    count = latents["masked"].reshape(3000, 2, 4).sum(2)
    torch.testing.assert_close(latents["weight"].reshape(3000, 2, 4), (4 / count).float()[..., None].expand(-1, -1, 4))
    share = torch.bincount(count.flatten(), minlength=5)[1:] / 6000
    assert (share - 0.25).abs().max() < 0.025
    assert (latents["masked"].double().mean(0) - 0.625).abs().max() < 0.035
    assert float(torch.corrcoef(count.T.double())[0, 1].abs()) < 0.07


def test_partitions_are_partitions_of_the_sizes_asked_for():
    rows = RandomBlocks((1, 2, 4)).draw((400, 13), rng=RowRng(0, range(400)))
    assert int(rows.min()) == 0
    steps = rows.diff(dim=1)
    assert bool(((steps == 0) | (steps == 1)).all())
    runs = [[len(list(g)) for _, g in itertools.groupby(row)] for row in rows.tolist()]
    assert {k for run in runs for k in run[:-1]} == {1, 2, 4}
    sizes = [k for run in runs if len(set(run[:-1])) > 1 for k in run[:-1]]
    assert sizes.count(1) > 1.5 * sizes.count(2) > 1.5 * 1.5 * sizes.count(4)
    equal = sum(len(set(run[:-1])) == 1 for run in runs)
    assert 180 < equal < 280
    assert EqualBlocks(4, 2).draw((1, 9), rng=SharedRng(0)).tolist() == [[0, 0, 1, 1, 1, 1, 2, 2, 2, 2][:9]]
    with pytest.raises(ValueError, match="at least 1"):
        RandomBlocks((0,))
    with pytest.raises(ValueError, match="start"):
        EqualBlocks(2, 3)
    with pytest.raises(TypeError, match="paired"):
        BlockOrder(PROCESS, EqualBlocks(1))(lambda x, t, cond: None, DATA, None, rng=SharedRng(0))


def test_a_block_is_sampled_after_its_memory_and_contexts_matter():
    denoiser = network()
    grid, hidden = torch.linspace(1, 0, 5, dtype=torch.float64), torch.full((2, 4), V)
    one, other = (denoiser.remember(None, text) for text in (DATA[:, :6], (DATA[:, :6] + 1) % V))
    assert not torch.equal(denoiser(hidden, grid[0], one).logits, denoiser(hidden, grid[0], other).logits)
    made = sample(PROCESS, denoiser, Ordered(), (2, 4), grid, cond=one, rng=RowRng(0, range(2)))
    assert not bool((made == V).any())


def test_memory_keeps_what_the_whole_text_says_of_its_last_token():
    """A policy's state in training is its state in writing, for no call of its own."""
    denoiser = network()
    cond = denoiser.remember(denoiser.remember(None, DATA[:, :4]), DATA[:, 4:9])
    states = denoiser.net.states(DATA[:, :9])
    torch.testing.assert_close(denoiser.net.newest(cond), states[:, -1], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(cond.values["context.last"], states[:, -1, :16], atol=1e-10, rtol=1e-10)
    assert states.shape[2] == 3 * 16
    assert not torch.allclose(states[:, -1, 16:], states[:, -2, 16:])
    assert torch.equal(denoiser.net.newest(None), torch.zeros(1, 48, dtype=torch.float64))
    assert not torch.allclose(states[:, -1], states[:, -2])
