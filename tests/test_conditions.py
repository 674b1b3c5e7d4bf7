"""Conditions: visual tokens to visual tokens, and the names a user may give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qwen3_vlm.batch import VisualTokens
from qwen3_vlm.checks.conditions import (
    CONDITIONS,
    GATES,
    RUNBOOK,
    STANDARD,
    Scene,
    check_mean_tokens,
    parse_conditions,
)

ROWS = (3, 8, 20, 21, 40)


def make_scene(seed=42, rows=ROWS, layers=1, mean=None, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    tensors = tuple(
        (torch.randn(len(rows), 6, 50 + k, generator=generator) * 3 + 2 + k).to(dtype) for k in range(layers)
    )
    donors = np.array([[1, 2], [2, 3], [3, 4], [4, 0], [0, 1]])[: len(rows)]
    return Scene(VisualTokens(tensors), rows, donors, mean, seed)


def apply(name, scene, positions, round_=0):
    return CONDITIONS[name].change(scene, positions, round_)


def test_correct_is_each_images_own():
    scene = make_scene()
    assert torch.equal(apply("correct", scene, [2, 0]).layers[0], scene.visual.layers[0][[2, 0]])


def test_shuffled_is_the_donors_and_another_one_each_round():
    scene = make_scene()
    own = scene.visual.layers[0]
    assert torch.equal(apply("shuffled", scene, [0, 3], 0).layers[0], own[[1, 4]])
    assert torch.equal(apply("shuffled", scene, [0, 3], 1).layers[0], own[[2, 0]])


def test_zero_is_zero_in_the_same_shape_and_type():
    got = apply("zero", make_scene(dtype=torch.bfloat16), [1, 2]).layers[0]
    assert got.shape == (2, 6, 50) and got.dtype == torch.bfloat16 and not got.any()


def test_no_image_is_none():
    assert apply("no-image", make_scene(), [0]) is None


def test_noise_has_the_scalar_moments_of_the_whole_set():
    scene = make_scene(rows=tuple(range(200)))
    own, got = scene.visual.layers[0], apply("noise", scene, range(200)).layers[0]
    assert scene.moments[0] == pytest.approx((own.double().mean().item(), own.double().std(correction=0).item()))
    assert got.mean().item() == pytest.approx(own.mean().item(), abs=0.05)
    assert got.std().item() == pytest.approx(own.std().item(), rel=0.02)


def test_noise_belongs_to_the_row_not_to_the_batch():
    scene = make_scene()
    together = apply("noise", scene, [0, 1, 2, 3, 4]).layers[0]
    alone = torch.cat([apply("noise", scene, [position]).layers[0] for position in range(5)])
    assert torch.equal(together, alone)
    # Among other samples the moments change, the draw itself does not.
    fewer = Scene(VisualTokens((scene.visual.layers[0][[4]],)), (40,), np.empty((1, 0), int), None, 42)
    (mean, std), (mean1, std1) = scene.moments[0], fewer.moments[0]
    draw, draw1 = (together[4] - mean) / std, (apply("noise", fewer, [0]).layers[0][0] - mean1) / std1
    assert torch.allclose(draw, draw1, atol=1e-5)


def test_noise_differs_between_rows_and_seeds():
    scene = make_scene()
    got = apply("noise", scene, [0, 1]).layers[0]
    assert not torch.equal(got[0], got[1])
    assert not torch.equal(got, apply("noise", make_scene(seed=43), [0, 1]).layers[0])


@pytest.mark.parametrize("name", [n for n in CONDITIONS if n not in ("no-image", "mean-token")])
def test_every_layer_is_treated_alike(name):
    scene = make_scene(layers=2)
    got = apply(name, scene, [1, 4])
    assert [layer.shape for layer in got.layers] == [(2, 6, 50), (2, 6, 51)]
    if name in ("shuffled", "zero", "noise"):
        own = scene.visual.rows([1, 4])
        assert all(not torch.equal(a, b) for a, b in zip(got.layers, own.layers, strict=True))
    if name == "noise":  # each layer its own moments: the means are 2 and 3
        assert got.layers[1].mean() - got.layers[0].mean() == pytest.approx(1, abs=0.7)


def test_mean_token_is_the_given_mean_for_everybody():
    mean = torch.arange(300.0).view(6, 50)
    got = apply("mean-token", make_scene(mean=mean), [0, 3]).layers[0]
    assert torch.equal(got, torch.stack([mean, mean]))


def test_mean_tokens_of_another_shape_are_refused():
    scene = make_scene()
    check_mean_tokens(scene.visual, torch.zeros(6, 50))
    with pytest.raises(ValueError, match=r"\(6, 50\).*got.*\(7, 50\)"):
        check_mean_tokens(scene.visual, torch.zeros(7, 50))
    with pytest.raises(ValueError, match=r"\(6, 51\)"):
        check_mean_tokens(make_scene(layers=2).visual, torch.zeros(6, 50))


def test_ladders():
    assert parse_conditions("runbook") == RUNBOOK == ("correct", "shuffled", "zero", "noise")
    assert parse_conditions("standard") == STANDARD == (*RUNBOOK, "no-image", "mean-token")
    assert GATES == ("shuffled", "zero", "noise")


def test_correct_is_always_scored_first_and_each_name_once():
    assert parse_conditions("zero, noise ,zero") == ("correct", "zero", "noise")
    assert parse_conditions("zero,correct") == ("correct", "zero")
    assert parse_conditions("runbook,no-image") == (*RUNBOOK, "no-image")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("no_image", "did you mean `no-image`"),
        ("runbok", "did you mean `runbook`"),
        ("Zero", "did you mean `zero`"),
        ("zero,shufled", "'shufled'; did you mean `shuffled`"),
        ("qqq", "known: runbook, standard, correct"),
        ("", "known:"),
        ("zero,,noise", "known:"),
    ],
)
def test_unknown_names_get_a_hint(text, hint):
    with pytest.raises(ValueError, match="--conditions: unknown condition") as error:
        parse_conditions(text)
    assert hint in str(error.value)


def test_every_condition_says_what_it_means_in_one_line():
    for kind in CONDITIONS.values():
        assert kind.meaning and "\n" not in kind.meaning
    assert [name for name, kind in CONDITIONS.items() if kind.role == "baseline"] == ["correct"]
