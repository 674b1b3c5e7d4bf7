"""Inside the connector: every figure against a closed form or brute force."""

from __future__ import annotations

import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyechart.reporting import readings
from eyechart.scoring.batching import collate
from eyechart.scoring.internals import Inside, Spread, effective_ranks, internals, knn_overlap
from eyechart.scoring.ranks import Ranks
from eyechart.seam import IGNORE_INDEX, Batch, PairScorer, Sample, VisualTokens
from qwen3_vlm.commands.recorder import Recorder, look_inside
from qwen3_vlm.models.vlm import VLM
from tiny_models import END, EOS, LATENTS, PATCH, SIDE, START, make_vlm


def stages(values_NSC: np.ndarray, tower_NSC: np.ndarray | None = None) -> dict[str, np.ndarray]:
    return {"tower": values_NSC if tower_NSC is None else tower_NSC, "resampler": values_NSC, "projector": values_NSC}


def seen(values: dict[str, np.ndarray], size: int = 7) -> Inside:
    inside, count = Inside(), len(values["tower"])
    for start in range(0, count, size):
        rows = list(range(start, min(start + size, count)))
        inside.add(rows, {name: values_NSC[start : start + size] for name, values_NSC in values.items()})
    return inside


@pytest.fixture
def values_NSC() -> np.ndarray:
    rng = np.random.default_rng(0)
    return 5 + rng.normal(size=(40, 6, 9)) + 3 * rng.normal(size=(1, 6, 9))


def test_the_share_between_images_is_the_one_of_an_analysis_of_variance(values_NSC: np.ndarray) -> None:
    grand_C = values_NSC.mean(axis=(0, 1))
    total = ((values_NSC - grand_C) ** 2).sum()
    between = ((values_NSC - values_NSC.mean(axis=0)) ** 2).sum()
    found = internals(seen(stages(values_NSC)), 1.0)
    assert found.variance_share == {
        name: pytest.approx(between / total) for name in ("tower", "resampler", "projector")
    }
    assert 0.05 < between / total < 0.3


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**31))
def test_batches_of_any_size_and_several_processes_add_up(sizes: list[int], seed: int) -> None:
    values = 1e3 + np.random.default_rng(seed).normal(size=(sum(sizes), 3, 2))
    whole, parts, start = Spread(), [Spread(), Spread()], 0
    whole.add(values)
    for i, size in enumerate(sizes):
        parts[i % 2].add(values[start : start + size])
        start += size
    parts[0].merge(parts[1])
    assert parts[0].images == whole.images == len(values)
    assert parts[0].mean_SC == pytest.approx(values.mean(axis=0))
    assert parts[0].squares_SC == pytest.approx(((values - values.mean(axis=0)) ** 2).sum(axis=0), abs=1e-7)


def test_an_output_that_is_the_same_for_all_images_has_no_share(
    values_NSC: np.ndarray,
) -> None:
    same = np.repeat(values_NSC[:1], 40, axis=0)
    found = internals(seen({"tower": values_NSC, "resampler": values_NSC, "projector": same}), 1.0)
    assert found.variance_share["projector"] < 1e-30 < found.variance_share["resampler"]
    earlier = internals(seen({"tower": values_NSC, "resampler": same, "projector": same}), 1.0)
    assert earlier.variance_share["resampler"] < 1e-30 < earlier.variance_share["tower"]


def test_with_one_slot_or_no_variance_there_is_no_share_and_it_is_said(values_NSC: np.ndarray) -> None:
    one = internals(seen({"tower": values_NSC, "resampler": values_NSC[:, :1], "projector": values_NSC[:, :1]}), 1.0)
    assert set(one.variance_share) == {"tower"} and "(resampler, projector: one slot" in readings.internals(one)
    flat = internals(seen({"tower": values_NSC, "projector": np.ones((40, 6, 9))}), 1.0)
    assert set(flat.variance_share) == {"tower"}


def test_the_rms_ratio_is_one_number_over_all_values(values_NSC: np.ndarray) -> None:
    found = internals(seen(stages(values_NSC)), 2.0)
    assert found.rms_ratio == pytest.approx(math.sqrt((values_NSC**2).mean()) / 2.0)


@pytest.mark.parametrize(
    ("tokens_SC", "expected"),
    [
        (np.eye(4, 9), 4.0),
        (np.outer([1.0, 2, 3, 4], np.arange(9.0)), 1.0),
        (np.diag([3.0, 1.0]), math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
        (np.zeros((3, 5)), 0.0),
        (np.eye(9, 4), 4.0),
    ],
    ids=["orthogonal", "all slots alike", "three to one", "zeros", "more slots than channels"],
)
def test_the_effective_rank_is_the_closed_form(tokens_SC: np.ndarray, expected: float) -> None:
    assert effective_ranks(tokens_SC[None])[0] == pytest.approx(expected, abs=1e-4)


def test_the_effective_rank_is_averaged_over_images_and_not_taken_of_all(values_NSC: np.ndarray) -> None:
    ranks = []
    for tokens_SC in values_NSC:
        shares = np.linalg.svd(tokens_SC, compute_uv=False)
        shares = shares / shares.sum()
        ranks.append(math.exp(-(shares * np.log(shares)).sum()))
    found = internals(seen(stages(values_NSC)), 1.0)
    assert found.effective_rank == pytest.approx(np.mean(ranks)) and found.effective_rank_of == 6


def brute_overlap(before: np.ndarray, after: np.ndarray, neighbours: int) -> float:
    shares = []
    for i in range(len(before)):
        near = []
        for space in (before, after):
            cosine = [
                -2.0 if j == i else space[i] @ space[j] / np.linalg.norm(space[i]) / np.linalg.norm(space[j])
                for j in range(len(space))
            ]
            near.append(set(sorted(range(len(space)), key=lambda j: -cosine[j])[:neighbours]))
        shares.append(len(near[0] & near[1]) / neighbours)
    return float(np.mean(shares))


def test_knn_overlap_is_what_brute_force_gives() -> None:
    rng = np.random.default_rng(0)
    before, noise = rng.normal(size=(30, 5)), rng.normal(size=(30, 5))
    assert knn_overlap(before, before + noise) == pytest.approx(brute_overlap(before, before + noise, 10))
    assert knn_overlap(before, before[:, ::-1] * 7) == 1.0


def test_knn_overlap_of_unrelated_features_is_near_chance() -> None:
    rng = np.random.default_rng(0)
    overlap = knn_overlap(rng.normal(size=(300, 8)), rng.normal(size=(300, 8)))
    assert overlap == pytest.approx(10 / 299, abs=0.01)


def test_knn_overlap_compares_the_pooled_features_of_both_ends(values_NSC: np.ndarray) -> None:
    tower = np.random.default_rng(3).normal(size=(40, 4, 5))
    found = internals(seen(stages(values_NSC, tower)), 1.0)
    expected = brute_overlap(tower.mean(axis=1), values_NSC.mean(axis=1), 10)
    assert found.knn_overlap == pytest.approx(expected)
    assert f"{expected:.0%} still are" in readings.connector(found) and "would give 26%" in readings.connector(found)


def test_too_few_images_have_no_neighbours_to_compare(values_NSC: np.ndarray) -> None:
    found = internals(seen(stages(values_NSC[:20])), 1.0)
    assert found.knn_overlap is None and "20 images are too few" in readings.connector(found)


def test_of_very_many_images_the_first_are_compared_and_it_is_said(
    values_NSC: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyechart.scoring.internals._COMPARED", 30)
    found = internals(seen(stages(values_NSC)), 1.0)
    assert found.images == 40 and "Among the first 30 images" in readings.connector(found)
    assert found.knn_overlap == internals(seen(stages(values_NSC[:30])), 1.0).knn_overlap


def test_without_images_or_with_values_that_are_not_finite_there_is_nothing(values_NSC: np.ndarray) -> None:
    assert internals(Inside(), 1.0) is None
    values_NSC[3, 0, 0] = np.nan
    assert internals(seen(stages(values_NSC)), 1.0) is None


def test_the_figures_do_not_depend_on_batches_or_processes(values_NSC: np.ndarray) -> None:
    whole = internals(seen(stages(values_NSC), size=40), 1.0)
    assert internals(seen(stages(values_NSC), size=3), 1.0) == whole
    first, second = Inside(), Inside()
    for start in range(0, 40, 8):
        rows = list(range(start, start + 8))
        (first if start % 16 else second).add(rows, stages(values_NSC[start : start + 8]))
    first.merge(second)
    assert internals(first, 1.0) == whole


def batch_of(rows: list[int]) -> Batch:
    ids = [START, *[PATCH] * LATENTS, END, 7, 11, EOS]
    labels = [IGNORE_INDEX] * (len(ids) - 2) + ids[-2:]
    samples = []
    for row in rows:
        generator = torch.Generator().manual_seed(row)
        pixels = torch.randint(0, 256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        ids_T, labels_T = np.array(ids), np.array(labels)
        samples.append(
            Sample(row, str(row), f"{row}.png", "c", ids_T, labels_T, (0, LATENTS + 2), len(ids), f"h{row}", pixels)
        )
    return collate(samples, EOS)


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return make_vlm(output_norm=True)


def test_the_recorder_scores_as_the_model_and_runs_the_tower_once(vlm: VLM) -> None:
    recorder, batch, calls = Recorder(vlm), batch_of([3, 1]), []
    handle = vlm.tower.register_forward_hook(lambda *_: calls.append(1))
    visual = recorder.encode(batch)
    handle.remove()
    assert len(calls) == 1 and isinstance(recorder, PairScorer)
    assert torch.equal(visual.layers[0], vlm.encode(batch).layers[0])
    assert torch.equal(recorder.nll(batch, visual).nll_N, vlm.nll(batch, visual).nll_N)


def test_the_recorder_notes_every_image_as_it_is_and_once(vlm: VLM) -> None:
    recorder = Recorder(vlm)
    batch = batch_of([5, 2, 9])
    recorder.encode(batch)
    recorder.encode(Batch(**{**vars(batch), "pixels_BCHW": torch.zeros_like(batch.pixels_BCHW)}))  # a changed picture
    inside = recorder.over(Ranks())
    pooled = vlm.features(batch).mean(dim=1).numpy()
    assert inside.features([2, 5, 9]) == pytest.approx(pooled[[1, 0, 2]], abs=1e-6)
    found = look_inside(inside, vlm)
    assert found.images == 3 and found.rms_ratio == pytest.approx(1.0, abs=1e-4)
    assert list(found.variance_share) == ["tower", "resampler", "projector"]
    assert found.effective_rank_of == LATENTS


def test_processes_put_together_what_each_has_noted(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3_vlm.commands.recorder.AT_ONCE", 2)
    recorders, parts = (Recorder(vlm), Recorder(vlm)), ([1, 2, 5], [3, 4])
    whole = Recorder(vlm)
    for recorder, rows in zip(recorders, parts, strict=True):
        recorder.encode(batch_of(rows))
        whole.encode(batch_of(rows))
    slots, barrier = [b"", b""], threading.Barrier(2, timeout=60)

    def gather(rank: int, value: object) -> list[object]:
        slots[rank] = pickle.dumps(value)  # what processes exchange must survive this
        barrier.wait()
        found = [pickle.loads(slot) for slot in slots]
        barrier.wait()
        return found

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda r: recorders[r].over(Ranks(r, 2, partial(gather, r))), (0, 1)))
    expected = whole.over(Ranks())
    for found in both:
        assert look_inside(found, vlm) == look_inside(expected, vlm)
        assert (found.features([5, 4, 1]) == expected.features([5, 4, 1])).all()


def test_pooled_vectors_come_back_in_any_order(values_NSC: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyechart.scoring.internals.AT_ONCE", 3)
    rows = [7, 0, 39, 12, 6, 8]
    features_SV = seen(stages(values_NSC)).features(rows)
    assert features_SV == pytest.approx(values_NSC.mean(axis=1)[rows], rel=1e-6)


def test_the_stages_of_the_model_are_what_its_parts_compute(vlm: VLM) -> None:
    batch = batch_of([1, 2])
    got = vlm.stages(batch)
    assert torch.equal(got["tower"], vlm.tower(batch.pixels_BCHW))
    with torch.no_grad():
        assert torch.equal(got["projector"], vlm.connector(got["tower"]))
    assert got["resampler"].shape == (2, LATENTS, 16) and isinstance(vlm.encode(batch), VisualTokens)
