"""Findings from the experiments on the path from visual tokens, input tokens and labels to the losses."""

from __future__ import annotations

import math
from collections.abc import Iterator

from eyechart.faults.experiments import SlotRoutes, TextRoutes, TokenRoutes
from eyechart.faults.image_findings import VISUAL, crossed, diagnose_repeats, plain, shared, who
from eyechart.faults.table import agree, finding
from eyechart.results import Finding

# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 12
NEIGHBOURS = 0.05
"""Maximum difference, in nats per label token, between a caption's loss in its batch and its loss when scored alone. A
difference up to this can be due to bfloat16 rounding."""
_BESIDE = {
    "before the block": "the text token before the image block",
    "first of the block": "the opening delimiter of the image block",
    "last of the block": "the closing delimiter of the image block",
    "after the block": "the text token after the image block",
}
"""Descriptions, for messages, of the text positions at an image block, by their names in the experiments."""


def diagnose_tokens(tokens: TokenRoutes) -> list[Finding]:
    """Return findings about the path from the visual tokens of a batch to its losses.

    The list is empty if the losses are not finite, because no effect can then be measured.
    """
    if not math.isfinite(tokens.loss):
        return []  # with NaN, no effect can be measured
    return diagnose_repeats({"losses": tokens.repeated}) or [*_tokens(tokens)]


def _tokens(tokens: TokenRoutes) -> Iterator[Finding]:
    routes = tokens.by_row
    if not any(routes):
        if tokens.nan_share > 0:
            yield finding(
                "image-masked",
                "replacing the visual tokens changes no loss, although NaN written into them spreads to "
                f"{tokens.nan_share:.0%} of the losses: they are in the sequence, but an attention mask gives them no "
                "weight",
                "build the attention mask from the lengths, with the image positions in it; with a causal model and "
                "padding on the right no mask is needed",
                nan_share=tokens.nan_share,
                routes=plain(routes),
            )
        else:
            yield finding(
                "not-injected",
                "replacing all visual tokens changes no loss, and neither does writing NaN into them: they are "
                "computed but never reach the language model",
                "put the visual tokens into the embeddings at the image positions, and pass those embeddings "
                "(`inputs_embeds`) to the language model instead of the ids",
                nan_share=tokens.nan_share,
                routes=plain(routes),
            )
        return
    if tokens.unread_depths:
        depths = ", ".join(map(str, tokens.unread_depths))
        yield finding(
            "not-injected",
            f"NaN in the visual tokens of depth {depths} (counted from 0) changes no loss, although those of another "
            "depth reach the losses: the vision half computes them, and the language model does not use them",
            "pass the features of every depth to the language model (Qwen3-VL: deepstack_features), with the positions "
            "where they are added",
            unread_depths=list(tokens.unread_depths),
        )
    yield from shared(
        routes,
        VISUAL,
        "losses",
        "check the path from the visual tokens to the loss: a mean or norm over the batch, visual tokens that are "
        "placed "
        "into several rows, attention or packing across samples",
    )
    if pair := crossed(routes):
        yield finding(
            "image-order",
            f"changing the visual tokens of sample {pair[0]} of a batch changes the losses of {who(pair[1])}: "
            "visual tokens are placed into other samples' prompts",
            "write row i of the visual tokens into row i of the embeddings; `masked_scatter` and boolean indexing fill "
            "row by row, so both tensors must have the samples in the same order",
            routes=plain(routes),
        )


def diagnose_slots(slots: SlotRoutes, text: TextRoutes) -> list[Finding]:
    """Return findings about visual tokens without a position, and about text tokens that visual tokens overwrote."""
    return [*_slots(slots, text)]


def _slots(slots: SlotRoutes, text: TextRoutes) -> Iterator[Finding]:
    if slots.overwritten and text.reach is not None:  # the losses depend on other text tokens
        where = " and ".join(_BESIDE.get(place, place) for place in slots.overwritten)
        most = len(slots.overwritten)
        yield finding(
            "placeholder-offset",
            f"changing {where} changes no loss: a visual token was most likely written over "
            f"{agree(most, 'it', 'them')}, next to the image positions instead of at them",
            "write visual token k to the position of the k-th image placeholder id, found by comparing ids and not by "
            "counting from the start of the prompt",
            overwritten=list(slots.overwritten),
            unplaced_slots=list(slots.unplaced),
        )
    elif slots.unplaced:
        yield finding(
            "placeholder-count",
            f"{len(slots.unplaced)} of the {slots.tried} tested visual tokens of an image "
            f"{agree(len(slots.unplaced), 'has', 'have')} no effect on any loss (the first is number "
            f"{slots.unplaced[0]}, counted from 0): the prompt has no position for "
            f"{agree(len(slots.unplaced), 'it, or it is', 'them, or they are')} cut off",
            "put as many image positions into the prompt as the connector has visual tokens (connector.latents), and "
            "truncate neither",
            unplaced_slots=list(slots.unplaced),
            tried_slots=slots.tried,
        )


def diagnose_text(text: TextRoutes) -> list[Finding]:
    """Return a finding if tokens are not predicted from exactly the input tokens before them."""
    horizon = text.horizon
    if horizon is None or horizon == 1:
        return []
    if horizon < 0:
        code, fix = "leak", "use a causal attention mask (the decoder's default, not a full or prefix mask)"
        message = (
            f"a caption token's loss depends on the input token {-horizon} {agree(-horizon, 'position', 'positions')} "
            "after it: the model sees the answer before it predicts it, so its attention is not causal"
        )
    elif horizon == 0:
        code = "labels-unshifted"
        message = (
            "the loss at a caption token depends on the same token as input: the model repeats its input instead of "
            "predicting the next token"
        )
        fix = (
            "compute the loss at position t from the logits at position t-1: shift the labels once, in the model or in "
            "the data; if that is right, make attention causal"
        )
    else:
        code = "labels-shifted"
        message = (
            f"each label is the token {horizon} positions after the last input token instead of the next token: "
            "labels are shifted once too often"
        )
        fix = (
            "compute the loss at position t from the logits at position t-1, and shift the labels once: if the model "
            "shifts the labels itself, the data must not shift them"
        )
    return [finding(code, message, fix, horizon=horizon, reach=text.reach, alignment=text.alignment)]


def diagnose_past_tokens(change: float, allowed: float) -> list[Finding]:
    """Return a finding if the pixels reach the losses by a path other than the visual tokens.

    Args:
        change: the largest change of a loss, in nats, when the pixels are changed while all visual tokens are zero.
        allowed: the largest change, in nats, that rounding can cause.
    """
    if not change > allowed:
        return []
    return [
        finding(
            "leak",
            f"with all visual tokens set to zero, other pixels change a loss by {change:.4g} nats: image features "
            "reach the language model by a path other than the visual tokens",
            "send every feature of the image through the visual tokens, or turn off the second path from image to "
            "language model (features added to deeper layers, cross-attention)",
            change=change,
        )
    ]


def diagnose_neighbours(tokens: TokenRoutes, allowed: float = NEIGHBOURS) -> list[Finding]:
    """Return a finding if losses depend on other samples of the batch, on their order, or on padding.

    Args:
        tokens: the results of the experiments.
        allowed: the largest difference, in nats per label token, that rounding can cause.
    """
    if not tokens.alone > allowed or crossed(tokens.by_row):
        return []
    return [
        finding(
            "batch-dependent",
            f"a caption's loss changes by {tokens.alone:.3f} nats/token when it is scored alone instead of in its "
            "batch: padding or another sample affects it",
            "exclude padding and other samples from attention: use causal attention with padding on the right, or a "
            "mask built from the lengths; packed samples need separate masks and position ids",
            alone=tokens.alone,
        )
    ]
