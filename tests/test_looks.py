"""Looks while training: what they measure, when, and that training does not notice them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import looks_error
from eyechart.results import Look
from eyechart.seam import IGNORE_INDEX, VisualTokens
from eyechart.verdict.standing import shared_level, stand_gap
from eyechart.verdict.statistics import clusters_of, estimate
from qwen3_vlm.build import build_model, prepare_data
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.looks import (
    LOOKS_NAME,
    SAMPLES,
    TRAINED_PER_LOOK,
    Looking,
    append_look,
    forget_looks,
    look_steps,
    read_looks,
    shuffled_gap,
    start_looking,
)
from tiny_runs import LAST_STEP, TinyWorld, log_of, make_world, same, weights_of

MARGIN = 0.05


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def looked(world: TinyWorld) -> Path:
    """The last checkpoint of an uninterrupted run that looks at every third step and saves after each update."""
    return world.train("looked", train__ablate_every=3, train__save_every=1)


def looks_of(folder: Path) -> list[dict[str, object]]:
    return [look.model_dump(exclude={"seconds"}) for look in read_looks(folder)]


def test_the_log_plan_halves_backwards_from_the_end() -> None:
    assert look_steps("log", 3675, 14_700) == [58, 115, 230, 460, 919, 1838, 3675]


def test_a_short_run_looks_less_often_and_a_very_short_one_never() -> None:
    assert look_steps("log", 1000, 3 * TRAINED_PER_LOOK) == [250, 500, 1000]
    assert look_steps("log", 1000, TRAINED_PER_LOOK - 1) == []


def test_a_number_means_every_so_many_steps_and_off_means_never() -> None:
    assert list(look_steps(400, 1000, 10)) == [400, 800] and look_steps("off", 1000, 10**9) == []


def test_looks_come_at_the_end_of_the_window_that_passes_their_step(looked: Path) -> None:
    # Windows end at steps 2, 4, 5 and 7, 9, 10; looks are due at 3, 6 and 9.
    assert [look.step for look in read_looks(looked.parent)] == [4, 7, 9]


def test_a_run_with_looks_is_bit_for_bit_the_run_without(world: TinyWorld, looked: Path) -> None:
    plain = world.train("plain", train__ablate_every="off", train__save_every=1)
    for path in plain.parent.glob("checkpoint_*.pt"):
        assert same(weights_of(looked.parent / path.name), weights_of(path)), path.name
    assert log_of(plain.parent) == log_of(looked.parent) and not (plain.parent / LOOKS_NAME).exists()


def test_a_look_leaves_every_generator_alone(world: TinyWorld, looked: Path) -> None:
    vlm, looking = fresh(world)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    looking.look(vlm, 1)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


@pytest.mark.parametrize("step", [2, 5, 7])
def test_a_resumed_run_has_the_looks_of_the_uninterrupted_one(world: TinyWorld, looked: Path, step: int) -> None:
    folder = world.root / f"from_{step}"
    shutil.copytree(looked.parent, folder)  # with all looks, also those after the cut
    for path in folder.glob("checkpoint_*.pt"):
        if int(path.stem.split("_")[1]) > step:
            path.unlink()
    world.train(folder.name, resume=True, train__ablate_every=3, train__save_every=1)
    assert looks_of(folder) == looks_of(looked.parent)
    assert same(weights_of(folder / looked.name), weights_of(looked))


def test_the_plan_of_looks_may_change_on_resuming(world: TinyWorld, looked: Path) -> None:
    folder = world.root / "changed"
    shutil.copytree(looked.parent, folder)
    for step in (7, 9, 10):
        (folder / f"checkpoint_{step}.pt").unlink()
    world.train("changed", resume=True, train__ablate_every="off", train__save_every=1)
    assert [look.step for look in read_looks(folder)] == [4]


def test_overwriting_a_run_forgets_its_looks(world: TinyWorld, looked: Path) -> None:
    shutil.copytree(looked.parent, world.root / "overwritten")
    world.train("overwritten", overwrite=True, train__ablate_every="off")
    assert not (world.root / "overwritten" / LOOKS_NAME).exists()


def fresh(world: TinyWorld) -> tuple[VLM, Looking]:
    config = world.config("fresh", train__ablate_every=3)
    prepared = prepare_data(config)
    vlm = build_model(config, prepared.inputs)
    looking = start_looking(look_steps(3, LAST_STEP, 36), vlm, prepared.train, MARGIN, config.seed)
    assert looking is not None
    return vlm, looking


def test_a_look_is_the_plain_scoring_of_its_samples(world: TinyWorld) -> None:
    vlm, looking = fresh(world)
    look = looking.look(vlm, 5)
    batch, visual = looking.batch, vlm.encode(looking.batch)

    def sums(tokens: VisualTokens) -> np.ndarray:
        with torch.no_grad():
            return np.array([float(nll_T.sum()) for nll_T in vlm.nll(batch, tokens).per_sample()])

    tokens = int((batch.labels_BT != IGNORE_INDEX).sum())
    correct_S = sums(visual)
    wrong_KS = np.stack([sums(visual.rows(donors_S)) for donors_S in looking.donors_SK.T])
    assert look.step == 5 and look.k == wrong_KS.shape[0] + 1 <= 8 and len(batch) == SAMPLES
    assert look.correct == pytest.approx(correct_S.sum() / tokens, rel=1e-5)
    assert look.gap_shuffled == pytest.approx((wrong_KS - correct_S).mean(axis=0).sum() / tokens, abs=1e-5)
    zero_S = sums(visual.map(torch.zeros_like))
    assert look.gap_zero == pytest.approx((zero_S - correct_S).sum() / tokens, abs=1e-5)
    assert look.r_at_1 == pytest.approx((wrong_KS > correct_S).all(axis=0).mean())
    tokens_S = np.array([int((labels_T != IGNORE_INDEX).sum()) for labels_T in batch.labels_BT])
    images_S = clusters_of([sample.image_hash for sample in batch.samples])
    wrong = estimate((wrong_KS - correct_S).T, tokens_S, images_S, looking.donors_SK)
    zeroed = estimate((zero_S - correct_S)[:, None], tokens_S, images_S)
    level = shared_level(3)
    assert look.se_shuffled == pytest.approx(wrong.se, rel=1e-2) and look.se_zero == pytest.approx(zeroed.se, rel=1e-2)
    assert look.lower_shuffled == pytest.approx(wrong.lower(level), rel=1e-2)
    assert look.upper_shuffled == pytest.approx(wrong.upper(level), rel=1e-2)
    assert look.shuffled == stand_gap(wrong, MARGIN, level, level).standing
    assert look.zero == stand_gap(zeroed, 0.0, level, level).standing


def test_zeros_that_differ_from_the_own_pictures_in_their_last_digits_only_are_ruled_out(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm, looking = fresh(world)
    encode = VLM.encode
    monkeypatch.setattr(VLM, "encode", lambda self, batch: encode(self, batch).map(torch.zeros_like))
    look = looking.look(vlm, 5)
    assert look is not None and abs(look.gap_zero) < 1e-6
    assert (look.shuffled, look.zero, look.se_zero) == ("ruled out", "ruled out", 0.0)


def test_a_look_scores_each_pair_and_each_caption_with_zeros_once(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm, looking = fresh(world)
    scored: list[int] = []
    nll, pair_nll = VLM.nll, VLM.pair_nll
    monkeypatch.setattr(VLM, "nll", lambda *given: scored.append(len(given[1])) or nll(*given))
    monkeypatch.setattr(VLM, "pair_nll", lambda *given: scored.append(len(given[1])) or pair_nll(*given))
    looking.look(vlm, 5)
    assert sum(scored) == len(looking.pairs_P2) + SAMPLES


def others(size: int) -> np.ndarray:
    """The pictures of all other samples, [S,S-1]."""
    return np.array([[donor for donor in range(size) if donor != own] for own in range(size)])


@pytest.mark.parametrize(
    ("differences", "variance"),
    [
        # Deviations from the gap of 1 sum to 2, -1, -1 by own picture and to 4, -2, -2 by both roles, 12 over pairs:
        # plain 3/2 * 6/36, dyadic 3/2 * (24 - 12)/36.
        ([[2, 2], [2, -1], [2, -1]], 0.5),
        # 1, -1, 0 by own picture and 0 by both roles, 2 over pairs: plain 3/2 * 2/36, dyadic below 0.
        ([[2, 1], [0, 1], [1, 1]], 1 / 12),
    ],
    ids=["one vivid picture", "own and donor cancel"],
)
def test_the_error_of_a_wrong_picture_is_the_larger_of_dyadic_and_plain(
    differences: list[list[float]], variance: float
) -> None:
    found, _ = shuffled_gap(np.array(differences, float), np.ones(3, int), np.arange(3), others(3), MARGIN, 1)
    assert found.gap == pytest.approx(1) and found.se == pytest.approx(math.sqrt(variance)) and found.clusters == 3


@pytest.mark.parametrize(
    ("differences", "looks", "standing"),
    [
        ([[1.1, 1.1], [1.1, 0.8], [1.1, 0.8]], 1, "costs"),
        ([[1.1, 1.1], [1.1, 0.8], [1.1, 0.8]], 7, "open"),
        ([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], 7, "ruled out"),
        ([[0.04, 0.04], [0.04, 0.04], [0.04, 0.04]], 7, "ruled out"),
    ],
    ids=["one look", "seven looks share the error", "no difference", "surely below the margin"],
)
def test_a_look_stands_by_bounds_at_the_level_that_all_looks_share(
    differences: list[list[float]], looks: int, standing: str
) -> None:
    found, stood = shuffled_gap(np.array(differences), np.ones(3, int), np.arange(3), others(3), MARGIN, looks)
    level = 1 - 0.01 / looks
    quantile = (2 * level - 1) / math.sqrt(2 * level * (1 - level))  # Student's t with 2 degrees of freedom
    assert stood.standing == standing and found.se is not None
    assert stood.lower == pytest.approx(found.gap - quantile * found.se)
    assert stood.upper == pytest.approx(found.gap + quantile * found.se)


def test_captions_of_one_picture_alone_leave_a_look_open() -> None:
    differences, donors = np.ones((2, 1)), np.array([[1], [0]])
    found, stood = shuffled_gap(differences, np.ones(2, int), np.zeros(2, int), donors, MARGIN, 7)
    assert found.se is None and stood.standing == "open" and stood.lower is None


def test_false_onsets_stay_at_one_run_in_a_hundred_for_normal_noise_and_not_for_a_few_harmed_captions() -> None:
    assert looks_error.simulate("normal", looks_error.MARGIN, 200).independent <= 0.03
    assert looks_error.simulate("normal", 0.0, 50).independent == 0
    assert looks_error.simulate("harmed", looks_error.MARGIN, 200).independent > 0.1
    assert not looks_error.acceptable("normal", 0.1, 200) and looks_error.acceptable("normal", 0.01, 200)


def test_the_other_pictures_differ_from_the_own_one_in_image_and_caption(world: TinyWorld) -> None:
    _, looking = fresh(world)
    samples = looking.batch.samples
    pairs = [(samples[i], samples[j]) for i, donors in enumerate(looking.donors_SK) for j in donors]
    assert pairs and all(a.image_hash != b.image_hash and a.caption != b.caption for a, b in pairs)


def test_a_look_at_a_loss_that_is_not_finite_is_said_and_left_out(
    world: TinyWorld,
) -> None:
    vlm, looking = fresh(world)
    features_BPV = looking.batch.features_BPV
    features_BPV[0, 0, 0] = math.nan
    assert looking.look(vlm, 3) is None


def test_too_few_held_out_samples_mean_no_looks_and_a_line_that_says_so(
    world: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    world.train("alone", train__ablate_every=2, data__eval_ratio=0.05)
    assert not (world.root / "alone" / LOOKS_NAME).exists()
    assert "looks: none" in capsys.readouterr().out


def test_training_says_when_it_will_look_what_it_saw_and_when_the_connector_began_to_look(
    world: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    world.train("told", train__ablate_every=3)
    captured = capsys.readouterr()
    assert "looks: 3, each at 4 held-out samples, at step 3, 6, 9\n" in captured.out
    assert captured.err.count("look at step 4 | loss ") == 1
    assert captured.out.splitlines()[-1].startswith("The connector had not begun to use the picture: at step 9")


def look(step: int, gap: float) -> Look:
    return Look(step=step, correct=1.0, gap_shuffled=gap, gap_zero=0.5, r_at_1=0.75, k=8)


def test_a_line_of_an_older_looks_file_is_read_and_both_its_gaps_are_open(tmp_path: Path) -> None:
    (tmp_path / LOOKS_NAME).write_text(
        '{"step": 58, "correct": 1.0, "gap_shuffled": 2.0, "gap_zero": 0.5, "r_at_1": 0.75, "k": 8, "seconds": 0.1}\n'
    )
    (older,) = read_looks(tmp_path)
    assert (older.shuffled, older.zero, older.se_shuffled) == ("open", "open", None)


def test_a_torn_line_is_named_with_its_file(tmp_path: Path) -> None:
    append_look(tmp_path, look(1, 0.0))
    with (tmp_path / LOOKS_NAME).open("a", encoding="utf-8") as file:
        file.write('{"step": 2, "corr\n')
    with pytest.raises(ValueError, match=r"looks.jsonl, line 2: not a look"):
        read_looks(tmp_path)


def test_forgetting_keeps_the_looks_up_to_a_step(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        append_look(tmp_path, look(step, 0.0))
    forget_looks(tmp_path, 2)
    assert [look.step for look in read_looks(tmp_path)] == [1, 2]
