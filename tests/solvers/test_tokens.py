"""Token solvers against enumeration (RADD's oracles 5, 6 and 8), and fixed tokens."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from condiff.core import Categorical, RowRng, SharedRng, sample, trajectory
from condiff.core.shapes import instant
from condiff.guidance import Memo
from condiff.oracles import TokenTable
from condiff.process import Absorbing, GeometricMasking, LinearMasking
from condiff.solvers import FirstHitting, Jump, Nucleus, Ordered, TokenEuler

V, L = 3, 4
PROCESS = Absorbing(V)
EVERY = torch.tensor(list(product(range(V), repeat=L)))
P = torch.rand(len(EVERY), generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 4
P = P / P.sum()
COUNT = 20_000
TABLE = TokenTable(PROCESS, EVERY, P)


def law(solver, steps, count=COUNT, process=PROCESS):
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    x = sample(process, TABLE, solver, (count, L), grid, rng=SharedRng(steps))
    assert not bool((x == process.mask).any())
    return torch.bincount((x * V ** torch.arange(L - 1, -1, -1)).sum(1), minlength=len(EVERY)).double() / count


def variation(law):
    return 0.5 * float((law - P).abs().sum())


# A sample of n from a law over 81 texts is this far from it in total variation, about.
FLOOR = 0.5 * float((2 / 3.14159 * P * (1 - P) / COUNT).sqrt().sum())


def test_one_step_gives_the_product_of_marginals():
    marginal = TABLE(torch.full((1, L), V), torch.tensor(1.0), None).logits[0].exp()
    independent = torch.stack([marginal[torch.arange(L), text].prod() for text in EVERY])
    assert 0.5 * float((law(Jump(), 1) - independent).abs().sum()) < 2 * FLOOR
    assert variation(independent) > 10 * FLOOR  # so the test can tell


def test_the_error_of_a_step_halves_with_its_length():
    few, more, many = (variation(law(Jump(), n)) for n in (2, 4, 12))
    assert 1.4 < few / more < 2.6
    assert many < 0.5 * more


@pytest.mark.parametrize(
    ("solver", "steps"), [(Ordered(), L), (FirstHitting(), 1), (FirstHitting(), 3)], ids=["ordered", "one", "three"]
)
def test_one_at_a_time_is_exact(solver, steps):
    assert variation(law(solver, steps)) < 2 * FLOOR


def test_ordered_reveals_an_exact_number_a_step_and_few_steps_are_wrong():
    grid = torch.linspace(1, 0, 3, dtype=torch.float64)
    x = torch.full((50, L), V)
    masks = [
        int((state.x == V).sum()) for state in trajectory(PROCESS, TABLE, Ordered(), x, grid, rng=RowRng(0, range(50)))
    ]
    assert masks == [200, 100, 0]
    assert variation(law(Ordered(), 2)) > 5 * FLOOR


def test_euler_is_tweedie_on_log_linear_noise_only():
    uniform = Categorical(torch.zeros(20_000, 2, V))
    hidden = torch.full((20_000, 2), V)
    for masking, equal in ((LinearMasking(), True), (LinearMasking(1e-3), True), (GeometricMasking(), False)):
        process = Absorbing(V, masking)
        t, s = instant(0.8), instant(0.5)
        tweedie = process.reverse(hidden, t, s, uniform, eta=0.0, rng=SharedRng(0))
        euler = TokenEuler().step(process, lambda x, t: uniform, TokenEuler().init(hidden, t), t, s, SharedRng(0)).x
        assert torch.equal(tweedie, euler) == equal, masking
        alpha_t, alpha_s = (float(masking.keep(torch.tensor(v, dtype=torch.float64))) for v in (0.8, 0.5))
        expected = (alpha_s - alpha_t) / (1 - alpha_t)
        revealed = float((tweedie != V).double().mean())
        assert revealed == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 40_000) ** 0.5 + 1e-9)


@pytest.mark.parametrize("solver", [Jump(), TokenEuler(), Ordered(), FirstHitting()], ids=lambda s: type(s).__name__)
class TestEverySolver:
    def test_visible_tokens_never_change_and_no_mask_is_left(self, solver):
        source = torch.tensor([[0, V, V, 2]]).expand(300, L)
        grid = torch.linspace(1, 0, 5, dtype=torch.float64)
        x = sample(PROCESS, TABLE, solver, (300, L), grid, rng=RowRng(1, range(300)), source=source)
        assert torch.equal(x[:, [0, 3]], source[:, [0, 3]])
        assert not bool((x == V).any())

    def test_a_row_does_not_depend_on_its_batch(self, solver):
        grid = torch.linspace(1, 0, 4, dtype=torch.float64)
        whole = sample(PROCESS, TABLE, solver, (5, L), grid, rng=RowRng(7, range(5)))
        for rows in ([3], [4, 0], [2, 1, 3]):
            part = sample(PROCESS, TABLE, solver, (len(rows), L), grid, rng=RowRng(7, rows))
            assert torch.equal(part, whole[rows])

    def test_a_memo_changes_nothing(self, solver):
        grid = torch.linspace(1, 0, 65, dtype=torch.float64)
        memo = Memo(TABLE)
        source = torch.where(torch.arange(L) < 3, V, 1).expand(8, L)
        plain = sample(PROCESS, TABLE, solver, (8, L), grid, rng=RowRng(2, range(8)), source=source)
        kept = sample(PROCESS, memo, solver, (8, L), grid, rng=RowRng(2, range(8)), source=source)
        assert torch.equal(plain, kept)
        assert memo.rows <= 8 * 4  # three free positions: no row is asked more than four times


def test_masks_that_the_clock_leaves_are_filled_at_the_end():
    process = Absorbing(V, GeometricMasking())
    x = process.finish(torch.tensor([[0, V, 2, 2]]), lambda x, t: TABLE(x, t, None))
    odds = torch.stack([P[(torch.tensor([0, v, 2, 2]) == EVERY).all(1)].sum() for v in range(V)])
    assert x.tolist() == [[0, int(odds.argmax()), 2, 2]]


def test_solvers_that_only_reveal_refuse_to_go_up():
    for solver in (TokenEuler(), Ordered(), FirstHitting()):
        x = torch.full((1, L), V)
        with pytest.raises(ValueError, match="only reveals"):
            solver.step(
                PROCESS,
                lambda x, t: TABLE(x, t, None),
                solver.init(x, instant(0.2)),
                instant(0.2),
                instant(0.4),
                RowRng(0, [0]),
            )


def test_a_source_is_checked():
    with pytest.raises(ValueError, match="expected"):
        PROCESS.start((2, L), rng=SharedRng(0), source=torch.zeros(1, L, dtype=torch.int64))
    with pytest.raises(ValueError, match="ids 0 to 2"):
        PROCESS.start((1, L), rng=SharedRng(0), source=torch.full((1, L), 4))


def test_a_nucleus_draws_from_the_likeliest_tokens_only():
    """Chances 0.5, 0.3, 0.2: at 0.7 the third is never drawn, the others 5 to 3; at 0.5 only the first; at 1 nothing changes."""
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    process = Absorbing(3)
    hidden = torch.full((4000, 4), process.mask)
    t, s = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)

    def drawn(solver):
        def denoise(x, t):
            return Categorical(logits.expand(*x.shape, 3))

        return solver.step(process, denoise, solver.init(hidden, t), t, s, SharedRng(3)).x

    counts = torch.bincount(drawn(Nucleus(Ordered(), 0.7)).flatten(), minlength=4).tolist()
    assert counts[2:] == [0, 0]
    assert abs(counts[0] / 16000 - 5 / 8) < 0.015
    assert torch.bincount(drawn(Nucleus(Jump(), 0.5)).flatten()).tolist() == [16000]
    assert torch.equal(drawn(Nucleus(Ordered(), 1.0)), drawn(Ordered()))
    with pytest.raises(ValueError, match="p in"):
        Nucleus(Ordered(), 0.0)
