"""The order of the data and the learning rate, as functions of nothing but their arguments."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwen3_vlm.config import TrainConfig
from qwen3_vlm.train.schedule import learning_rate, micro_batches, plan_epoch

# The schedulers are asked for their rates only; there is nothing to optimise.
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of")


def rates(total: int, **settings: object) -> list[float]:
    config = TrainConfig(**settings)  # type: ignore[arg-type]
    return [learning_rate(update, total, config) for update in range(total)]


def torch_rates(total: int, lr: float, make: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)  # type: ignore[operator]
    got = []
    for _ in range(total):
        got.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return got


def test_the_trial_is_1225_batches_and_307_updates_an_epoch_and_ends_at_step_3675_with_921_updates() -> None:
    epochs = [plan_epoch(4_900, epoch, seed=42, batch_size=4, accumulation=4) for epoch in range(3)]
    assert [len(windows) for windows in epochs] == [307] * 3
    assert [sum(map(len, windows)) for windows in epochs] == [1_225] * 3
    assert sum(len(window) for windows in epochs for window in windows) == 3_675
    assert sum(map(len, epochs)) == 921
    assert [len(batch) for batch in epochs[0][-1]] == [4], "1,225 = 306 * 4 + 1: the last window closes with one batch"


def test_epochs_and_seeds_have_orders_of_their_own_and_each_order_comes_again() -> None:
    plans = {(s, e): plan_epoch(100, e, s, 4, 4) for s in (0, 1) for e in (0, 1)}
    assert len({str(plan) for plan in plans.values()}) == 4
    assert plans[1, 1] == plan_epoch(100, 1, 1, 4, 4)


@given(st.integers(1, 80), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_every_position_appears_once_an_epoch_in_batches_and_windows_that_are_full_but_for_the_last(
    samples: int, batch_size: int, accumulation: int, epoch: int
) -> None:
    windows = plan_epoch(samples, epoch, 7, batch_size, accumulation)
    batches = [batch for window in windows for batch in window]
    assert sorted(p for batch in batches for p in batch) == list(range(samples))
    assert all(len(batch) == batch_size for batch in batches[:-1]) and 1 <= len(batches[-1]) <= batch_size
    assert all(len(window) == accumulation for window in windows[:-1]) and 1 <= len(windows[-1]) <= accumulation


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=5),
    st.integers(1, 7),
    st.integers(1, 4),
)
def test_the_ranks_micro_batches_are_a_partition_of_the_window(lengths: list[list[int]], size: int, world: int) -> None:
    flat = [length for batch in lengths for length in batch]
    ids = iter(range(len(flat)))
    window = [[next(ids) for _ in batch] for batch in lengths]
    parts = [micro_batches(window, flat, size, rank, world) for rank in range(world)]
    assert sorted(p for part in parts for batch in part for p in batch) == list(range(len(flat)))
    assert all(1 <= len(batch) <= size for part in parts for batch in part)
    shares = [sum(map(len, part)) for part in parts]
    assert max(shares) - min(shares) <= 1, "no rank waits for another"


def test_samples_of_like_length_share_a_micro_batch() -> None:
    assert micro_batches([[0, 1], [2, 3]], [9, 1, 8, 2], size=2) == [[1, 3], [2, 0]]


def test_warm_up_is_linear_and_its_last_update_has_the_peak_rate() -> None:
    got = rates(10, lr=1.0, schedule="constant", warmup_ratio=0.4)
    assert got == pytest.approx([0.25, 0.5, 0.75, 1.0, 1, 1, 1, 1, 1, 1])


def test_linear_falls_in_equal_steps_towards_zero() -> None:
    assert rates(5, lr=1.0, schedule="linear", warmup_ratio=0.0) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert rates(6, lr=2.0, schedule="linear", warmup_ratio=0.34) == pytest.approx([1.0, 2.0, 2.0, 1.5, 1.0, 0.5])


def test_cosine_has_hand_computed_values_and_is_half_way_down_in_the_middle() -> None:
    got = rates(4, lr=1.0, schedule="cosine", warmup_ratio=0.0)
    root = math.sqrt(0.5)
    assert got == pytest.approx([1.0, (1 + root) / 2, 0.5, (1 - root) / 2])


def test_cosine_equals_torchs_cosine_annealing_after_the_warm_up() -> None:
    got = rates(40, lr=3e-3, schedule="cosine", warmup_ratio=0.1)
    expected = torch_rates(36, 3e-3, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=36))
    assert got[4:] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("warm", [1, 5, 13])
def test_one_cycle_equals_torchs_with_the_peak_at_the_first_update_after_the_warm_up(warm: int) -> None:
    total = 50
    got = rates(total, lr=2e-3, schedule="one-cycle", warmup_ratio=warm / total)
    # torch puts the peak at update pct_start * total - 1.
    make = torch.optim.lr_scheduler.OneCycleLR
    expected = torch_rates(
        total,
        2e-3,
        lambda o: make(o, max_lr=2e-3, total_steps=total, pct_start=(warm + 1) / total, cycle_momentum=False),
    )
    assert got == pytest.approx(expected, rel=1e-9)
    assert (got[0], got[warm], got[-1]) == pytest.approx((2e-3 / 25, 2e-3, 2e-3 / 250_000))


@given(
    st.integers(1, 60),
    st.floats(0, 0.99),
    st.sampled_from(["cosine", "linear", "one-cycle", "constant"]),
)
def test_every_rate_is_above_zero_and_at_most_the_peak(total: int, warmup: float, schedule: str) -> None:
    got = rates(total, lr=1e-3, schedule=schedule, warmup_ratio=warmup)
    assert all(0 < rate <= 1e-3 * (1 + 1e-12) for rate in got)
