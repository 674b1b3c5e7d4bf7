"""Every experiment measures what it is for, on a decoder of a few lines, and something else where that is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyechart.faults.changes import random_like, without_images
from eyechart.faults.experiments import (
    RESTLESS,
    Gradients,
    ImageRoutes,
    image_routes,
    past_tokens,
    put_back,
    sensitivity,
)
from eyechart.faults.experiments_on_losses import LossRoute
from eyechart.faults.image_findings import diagnose_images
from eyechart.faults.loss_findings import diagnose_neighbours, diagnose_text, diagnose_tokens
from eyechart.seam import IGNORE_INDEX, Batch, TokenNLL, VisualTokens
from fake_scorers import LATENTS, PATCH, make_batches, make_sample

WIDTH, VOCABULARY = 8, 80
TABLE_KE = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(0))
Read = Callable[[Tensor], Tensor]


def past_and_present(embeds_BTE: Tensor) -> Tensor:
    """A causal decoder: each position sums itself and the positions before it, near ones with more weight."""
    places_T = torch.arange(embeds_BTE.shape[1])
    weights_TT = 0.8 ** (places_T[:, None] - places_T[None]).float()
    return torch.einsum("ts,bse->bte", weights_TT.tril(), embeds_BTE)


def both_ways(embeds_BTE: Tensor) -> Tensor:
    return past_and_present(embeds_BTE) + embeds_BTE.mean(dim=1, keepdim=True)


def across(embeds_BTE: Tensor) -> Tensor:
    return past_and_present(embeds_BTE) + embeds_BTE[:, :4].mean(dim=(0, 1))


class Toy:
    """A whole model in two methods: pixels are averaged, and placed into a decoder."""

    def __init__(self, read: Read = past_and_present, blind: bool = False, ahead: int = 1, noise: float = 0.0) -> None:
        self.read, self.blind, self.ahead, self.noise = read, blind, ahead, noise

    def encode(self, batch: Batch) -> VisualTokens:
        assert batch.pixels_BCHW is not None
        pixels_BP = batch.pixels_BCHW.float().flatten(1)[:, : LATENTS * WIDTH] / 255
        return VisualTokens((pixels_BP.view(-1, LATENTS, WIDTH),))

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        assert visual is not None
        embeds_BTE = TABLE_KE[batch.ids_BT]
        if not self.blind:
            embeds_BTE = embeds_BTE.masked_scatter((batch.ids_BT == PATCH)[..., None], visual.layers[0])
        logits_BTK = self.read(embeds_BTE + self.noise * torch.randn(embeds_BTE.shape)) @ TABLE_KE.T
        targets_BT = batch.labels_BT[:, self.ahead :]
        keep_BT = targets_BT != IGNORE_INDEX
        kept_NK = logits_BTK[:, : targets_BT.shape[1]][keep_BT]
        return TokenNLL(F.cross_entropy(kept_NK, targets_BT[keep_BT], reduction="none"), keep_BT.sum(dim=1))


def batch_of(rows: int = 3) -> Batch:
    return make_batches([make_sample(row) for row in range(rows)], rows)[0]


def route(scorer: Toy, batch: Batch | None = None) -> LossRoute:
    text = without_images(batch or batch_of())
    drawn = torch.randn(len(text.ids_BT), LATENTS, WIDTH, generator=torch.Generator().manual_seed(1))
    return LossRoute(scorer, text, VisualTokens((drawn,)))


def test_a_sound_model_is_measured_as_sound() -> None:
    images, losses = image_routes(Toy().encode, batch_of()), route(Toy())
    tokens, slots, text = losses.tokens(), losses.slots(), losses.text()
    assert (images.finite, images.repeated, images.by_image, images.misplaced) == (True, 0, ((0,), (1,), (2,)), ())
    assert (tokens.by_row, tokens.numbers, tokens.nan_share, tokens.repeated) == (((0,), (1,), (2,)), 0, 1, 0)
    assert tokens.alone < 1e-5 and tokens.labels == sum(s.label_tokens for s in batch_of().samples)
    assert (slots.unplaced, slots.tried, slots.overwritten) == ((), LATENTS, ())
    assert (text.reach, text.target, text.alignment, text.horizon, text.look_ahead) == (1, 0, 0, 1, 0)
    assert diagnose_images(images) == diagnose_tokens(tokens) == diagnose_text(text) == []
    with pytest.raises(FrozenInstanceError):
        text.reach = 2  # type: ignore[misc]


def test_images_that_reach_their_neighbours_or_nobody_are_measured() -> None:
    def shared(batch: Batch) -> VisualTokens:
        return Toy().encode(batch).map(lambda layer: layer - layer.mean(0))

    def deaf(batch: Batch) -> VisualTokens:
        return Toy().encode(batch).map(torch.ones_like)

    assert image_routes(shared, batch_of()).by_image == ((0, 1, 2),) * 3
    assert image_routes(deaf, batch_of()).by_image == ((), (), ())


@pytest.mark.parametrize("made", ["tower's features", "visual tokens"])
def test_a_finding_names_the_stage_that_was_tried(made: str) -> None:
    crossed = ImageRoutes((5, 6), finite=True, repeated=0.0, by_image=((1,), (0,)), misplaced=())
    (found,) = diagnose_images(crossed, made)
    assert found.code == "image-order" and f"changes the {made} of sample 1" in found.message


def test_what_is_random_is_measured_and_named_before_all_else() -> None:
    tokens = route(Toy(noise=0.5)).tokens()
    assert tokens.repeated > RESTLESS
    assert [f.code for f in diagnose_tokens(tokens)] == ["loss-not-reproduced"]


def test_losses_of_a_model_that_does_not_read_its_visual_tokens_stay_numbers() -> None:
    assert route(Toy(blind=True)).labels_despite_nan() == [(route(Toy()).tokens().labels,) * 2]
    assert route(Toy(blind=True)).tokens().by_row == ((), (), ())


def test_losses_that_depend_on_the_neighbours_are_measured_alone_and_by_row() -> None:
    tokens = route(Toy(across)).tokens()
    assert tokens.by_row == ((0, 1, 2),) * 3 and tokens.alone > 1e-3


def test_another_number_of_losses_alone_than_in_the_batch_is_a_difference_and_no_crash() -> None:
    batch = batch_of()
    padded_BT = torch.where(batch.attention_BT, batch.labels_BT, 1)
    tokens = route(Toy(), replace(batch, labels_BT=padded_BT)).tokens()
    assert [f.code for f in diagnose_neighbours(tokens)] == ["batch-dependent"]


@pytest.mark.parametrize(("ahead", "horizon", "code"), [(0, 0, "labels-unshifted"), (2, 2, "labels-shifted")])
def test_the_horizon_is_the_shift_between_input_and_label(ahead: int, horizon: int, code: str) -> None:
    text = route(Toy(ahead=ahead)).text()
    assert text.horizon == horizon
    assert [f.code for f in diagnose_text(text)] == [code]


@pytest.mark.parametrize("words", [1, 2, 6])
def test_a_look_at_later_tokens_is_measured_however_short_the_captions_are(words: int) -> None:
    batch = make_batches([make_sample(row, words=words) for row in range(2)], 2)[0]
    assert route(Toy(), batch).text().look_ahead == 0
    seen = route(Toy(both_ways), batch).text()
    assert seen.look_ahead > 1e-3 and seen.horizon is not None and seen.horizon < 1


def test_labels_at_image_positions_and_at_the_first_position_do_not_mislead() -> None:
    batch = batch_of()
    whole_BT = torch.where(batch.attention_BT, batch.ids_BT, IGNORE_INDEX)
    text = route(Toy(), replace(batch, labels_BT=whole_BT)).text()
    assert (text.horizon, text.look_ahead) == (1, 0)


def test_put_back_tokens_and_a_second_way_in_are_measured() -> None:
    scorer, batch = Toy(), batch_of()

    def own(given: Batch, visual: VisualTokens | None) -> Tensor:
        return scorer.nll(given, visual or scorer.encode(given)).nll_N

    def leaky(given: Batch, visual: VisualTokens | None) -> Tensor:
        assert given.pixels_BCHW is not None
        return own(given, visual) + given.pixels_BCHW.float().mean() / 255

    assert put_back(scorer, batch, own) == past_tokens(scorer, batch, own) == 0
    assert put_back(scorer, batch, leaky) > 1e-3 and past_tokens(scorer, batch, leaky) > 1e-3


def test_drawn_tokens_have_the_spread_of_the_real_ones_whatever_is_not_finite_among_them() -> None:
    real = torch.full((2, LATENTS, WIDTH), 3.0)
    real[0, 0, 0] = torch.nan
    (drawn,) = random_like(VisualTokens((real,)), torch.Generator().manual_seed(0)).layers
    assert 2 < float(drawn.square().mean().sqrt()) < 4


def test_weights_without_a_gradient_and_with_one_that_is_not_finite_are_named_and_not_written_to() -> None:
    named = {name: nn.Parameter(torch.ones(2)) for name in ("used", "left out", "times zero", "overflown")}
    loss = (named["used"] + 0 * named["times zero"] + torch.inf * named["overflown"]).sum()
    found = Gradients.of(loss, named)
    assert (found.unreached, found.broken) == (("left out", "times zero"), ("overflown",))
    assert all(weight.grad is None for weight in named.values())


def test_the_sensitivity_of_an_output_is_zero_at_the_vectors_that_it_does_not_use() -> None:
    given_BTE = torch.randn(2, 3, 4).requires_grad_()
    assert (sensitivity(given_BTE[0, 1].sum(), given_BTE) > 0).nonzero().tolist() == [[0, 1]]
    assert not sensitivity(torch.ones((), requires_grad=True) * 2, given_BTE).any()
