"""Conditions: visual tokens to visual tokens, and the names a user may give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eyechart.reporting.conditions import MEANINGS
from eyechart.scoring.conditions import (
    CONDITIONS,
    FULL,
    GATES,
    MEASUREMENTS,
    RIVALS,
    RUNBOOK,
    STANDARD,
    Scene,
    check_fixed,
    named_conditions,
    parse_conditions,
)
from eyechart.scoring.pixels import PIXEL_CHANGES
from eyechart.scoring.storage import VisualSet
from eyechart.seam import VisualTokens

ROWS = (3, 8, 20, 21, 40)


def make_scene(seed=42, rows=ROWS, layers=1, fixed=None, dtype=torch.float32, images=None):
    """Visual tokens of five rows; the last of them is stored first."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(len(rows), 6, 50 + k, generator=generator) * 3 + 2 + k for k in range(layers)]
    donors = np.array([[1, 2], [2, 3], [3, 4], [4, 0], [0, 1]])[: len(rows)]
    stored = VisualTokens(tuple(tensor.to(dtype).roll(1, dims=0) for tensor in tensors))
    visual = VisualSet(stored, (torch.arange(len(rows)) + 1) % len(rows))
    images_S = np.arange(len(rows)) if images is None else np.array(images)
    return Scene(visual, rows, images_S, donors, seed, fixed or {}, {name: visual for name in PIXEL_CHANGES})


def everything(scene):
    return scene.visual.rows(range(len(scene.visual))).layers[0]


def apply(name, scene, positions, round_=0):
    return CONDITIONS[name].change(scene, positions, round_)


def test_correct_is_each_images_own():
    scene = make_scene()
    own = everything(scene)
    assert torch.equal(apply("correct", scene, [2, 0]).layers[0], own[[2, 0]])
    assert torch.equal(own[4], scene.visual.stored.layers[0][0]), "the fifth row is stored first"


def test_shuffled_is_the_donors_and_another_one_each_round():
    scene = make_scene()
    own = everything(scene)
    assert torch.equal(apply("shuffled", scene, [0, 3], 0).layers[0], own[[1, 4]])
    assert torch.equal(apply("shuffled", scene, [0, 3], 1).layers[0], own[[2, 0]])


def test_zero_is_zero_in_the_same_shape_and_type():
    got = apply("zero", make_scene(dtype=torch.bfloat16), [1, 2]).layers[0]
    assert got.shape == (2, 6, 50) and got.dtype == torch.bfloat16 and not got.any()


def test_no_image_is_none():
    assert apply("no-image", make_scene(), [0]) is None


def test_noise_has_the_scalar_moments_of_the_whole_set():
    scene = make_scene(rows=tuple(range(200)))
    own, got = everything(scene), apply("noise", scene, range(200)).layers[0]
    assert scene.moments[0] == pytest.approx((own.double().mean().item(), own.double().std(correction=0).item()))
    assert got.mean().item() == pytest.approx(own.mean().item(), abs=0.05)
    assert got.std().item() == pytest.approx(own.std().item(), rel=0.02)


def test_noise_belongs_to_the_row_not_to_the_batch():
    scene = make_scene()
    together = apply("noise", scene, [0, 1, 2, 3, 4]).layers[0]
    alone = torch.cat([apply("noise", scene, [position]).layers[0] for position in range(5)])
    assert torch.equal(together, alone)
    # Among other samples the moments change, the draw itself does not.
    alone = VisualSet(VisualTokens((everything(scene)[[4]],)), torch.zeros(1, dtype=torch.long))
    fewer = Scene(alone, (40,), np.zeros(1, int), np.empty((1, 0), int), 42)
    (mean, std), (mean1, std1) = scene.moments[0], fewer.moments[0]
    draw, draw1 = (together[4] - mean) / std, (apply("noise", fewer, [0]).layers[0][0] - mean1) / std1
    assert torch.allclose(draw, draw1, atol=1e-5)


def test_noise_differs_between_rows_and_seeds():
    scene = make_scene()
    got = apply("noise", scene, [0, 1]).layers[0]
    assert not torch.equal(got[0], got[1])
    assert not torch.equal(got, apply("noise", make_scene(seed=43), [0, 1]).layers[0])


@pytest.mark.parametrize("name", [n for n in CONDITIONS if n not in ("no-image", "mean-token", "blind")])
def test_every_layer_is_treated_alike(name):
    scene = make_scene(layers=2)
    got = apply(name, scene, [1, 4])
    assert [layer.shape for layer in got.layers] == [(2, 6, 50), (2, 6, 51)]
    if name in ("shuffled", "zero", "noise", "noise-per-dim", "slot-mix"):
        own = scene.visual.rows([1, 4])
        assert all(not torch.equal(a, b) for a, b in zip(got.layers, own.layers, strict=True))
    if name.startswith("noise"):  # each layer its own moments: the means are 2 and 3
        assert got.layers[1].mean() - got.layers[0].mean() == pytest.approx(1, abs=0.7)


@pytest.mark.parametrize("name", ["mean-token", "blind"])
def test_mean_token_and_blind_are_the_given_tokens_for_everybody(name):
    given = torch.arange(300.0).view(6, 50)
    got = apply(name, make_scene(fixed={name: given}), [0, 3]).layers[0]
    assert torch.equal(got, torch.stack([given, given]))


def test_tokens_of_another_shape_are_refused():
    stored = make_scene().visual.stored
    check_fixed("blind", stored, torch.zeros(6, 50))
    with pytest.raises(ValueError, match=r"blind: .*\(6, 50\).*got.*\(7, 50\)"):
        check_fixed("blind", stored, torch.zeros(7, 50))
    with pytest.raises(ValueError, match=r"\(6, 51\)"):
        check_fixed("mean-token", make_scene(layers=2).visual.stored, torch.zeros(6, 50))


def test_noise_per_dim_has_the_moments_of_every_slot_and_dimension():
    scene = make_scene(rows=tuple(range(400)))
    scale = torch.linspace(0.1, 5, 300).view(6, 50)
    scaled = VisualSet(VisualTokens((scene.visual.stored.layers[0] * scale + scale,)), scene.visual.order_S)
    scene = Scene(scaled, scene.rows, scene.images_S, scene.donors_SR, scene.seed)
    own, got = everything(scene), apply("noise-per-dim", scene, range(400)).layers[0]
    ((mean, std),) = scene.moments_per_dim
    assert torch.allclose(mean, own.double().mean(0).float(), rtol=1e-6)
    assert torch.allclose(std, own.double().std(0, correction=0).float(), rtol=1e-6)
    # 400 draws: the mean has a standard error of std/20, the spread one of std/28.
    assert ((got.mean(0) - mean) / std).abs().max() < 5 / 20 and (got.std(0) / std - 1).abs().max() < 5 / 28
    assert torch.equal(apply("noise-per-dim", scene, [7]).layers[0][0], got[7])
    assert not torch.allclose((got[0] - mean) / std, (apply("noise", scene, [0]).layers[0][0] - 2) / 3, atol=0.5)


def sources(scene, positions):
    """Which sample provided each slot."""
    own, got = everything(scene), apply("slot-mix", scene, positions).layers[0]
    return [[int((own[:, q] == got[b, q]).all(-1).nonzero()) for q in range(6)] for b in range(len(positions))]


def test_every_slot_of_slot_mix_comes_from_another_image_and_none_from_the_own():
    scene = make_scene(rows=tuple(range(30)))
    given = sources(scene, range(30))
    assert all(len(set(row)) == 6 and i not in row for i, row in enumerate(given))
    assert sources(scene, [7, 3]) == [given[7], given[3]], "whatever the batch"
    assert sources(make_scene(seed=1, rows=tuple(range(30))), range(30)) != given
    assert {source for row in given for source in row} == set(range(30)), "all of them provide slots"


def test_slot_mix_takes_no_slot_from_another_row_with_the_own_image_and_repeats_images_only_in_need():
    scene = make_scene(images=[0, 1, 0, 2, 2])
    for i, given in enumerate(sources(scene, range(5))):
        images = [int(scene.images_S[source]) for source in given]
        assert int(scene.images_S[i]) not in images
        assert sorted(images.count(image) for image in set(images)) == [3, 3], "two others for six slots"


def test_ladders():
    assert parse_conditions("runbook") == RUNBOOK == ("correct", "shuffled", "zero", "noise")
    more = ("no-image", "mean-token", "noise-per-dim", "slot-mix", "grey", "blurred", "tiles-4")
    assert parse_conditions("standard") == STANDARD == (*RUNBOOK, *more)
    assert parse_conditions("full") == FULL == (*STANDARD, "blind", "tiles-2", "tiles-8", "matching", "donors")
    assert set(FULL) == {*CONDITIONS, *MEASUREMENTS}
    assert GATES == ("shuffled", "zero", "noise")


def test_correct_is_always_scored_first_and_each_name_once():
    assert parse_conditions("zero, noise ,zero") == ("correct", "zero", "noise")
    assert parse_conditions("zero,correct") == ("correct", "zero")
    assert parse_conditions("runbook,no-image") == (*RUNBOOK, "no-image")
    assert parse_conditions("matching,zero") == ("correct", "matching", "zero")


def test_a_blind_prompt_comes_with_what_it_is_held_against():
    assert parse_conditions("blind") == ("correct", "blind", *RIVALS)
    assert parse_conditions("runbook,blind") == (*RUNBOOK, "blind", "no-image", "mean-token")
    assert parse_conditions("mean-token,blind,zero") == ("correct", "mean-token", "blind", "zero", "no-image")
    assert named_conditions("blind") == ("correct", "blind"), "where none can be trained it has no rivals either"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("no_image", "did you mean `no-image`"),
        ("runbok", "did you mean `runbook`"),
        ("Zero", "did you mean `zero`"),
        ("zero,shufled", "'shufled'; did you mean `shuffled`"),
        ("tiles-3", "did you mean `tiles-"),
        ("qqq", "known: runbook, standard, full, correct"),
        ("", "known:"),
        ("zero,,noise", "known:"),
    ],
)
def test_unknown_names_get_a_hint(text, hint):
    with pytest.raises(ValueError, match="--conditions: unknown condition") as error:
        parse_conditions(text)
    assert hint in str(error.value)


def test_every_condition_says_what_it_means_in_one_line():
    assert MEANINGS.keys() == CONDITIONS.keys()
    for name in CONDITIONS:
        assert MEANINGS[name] and "\n" not in MEANINGS[name]
    assert [name for name, kind in CONDITIONS.items() if kind.role == "baseline"] == ["correct"]
