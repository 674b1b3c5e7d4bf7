"""Which fault do the experiments show? Each rule is about a path that must exist, or must not, whatever the losses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from eyechart.faults.experiments import RESTLESS, ImageRoutes, Routes, SlotRoutes, TextRoutes, TokenRoutes
from eyechart.faults.probes import Probes
from eyechart.faults.table import agree, finding
from eyechart.results import Finding

NEIGHBOURS = 0.05
"""Nats per label token that a caption's loss may change between its batch and alone: bfloat16 rounds that coarsely."""
_BESIDE = {
    "before the block": "the text token before the image block",
    "first of the block": "the opening delimiter of the image block",
    "last of the block": "the closing delimiter of the image block",
    "after the block": "the text token after the image block",
}
"""Places that the probes name, in words."""
_ANSWERS = 0.5
"""Share of samples with their caption in the prompt above which that is no coincidence."""
VISUAL = "visual tokens"


def diagnose_probes(probes: Probes) -> list[Finding]:
    """Name the faults in how images, visual tokens and labels reach the losses; nothing where all paths are sound."""
    images, tokens = probes.images, probes.tokens
    if images.finite and (random := diagnose_repeats({VISUAL: images.repeated, "losses": tokens.repeated})):
        return random  # what changes by itself tells nothing about what was changed
    found = diagnose_images(images) + diagnose_tokens(tokens)
    if any(tokens.by_row):
        found += [*_slots(probes.slots, probes.text)]
    return [*found, *diagnose_text(probes.text), *_answers(probes), *diagnose_neighbours(tokens)]


def diagnose_repeats(differences: Mapping[str, float]) -> list[Finding]:
    """Name what two equal calls give differently.

    Args:
        differences: how far they are apart, relative to their size, by the name of what they give.
    """
    restless = {name: difference for name, difference in differences.items() if difference > RESTLESS}
    if not restless:
        return []
    where = "in the language model or the loss" if [*restless] == ["losses"] else "between the pixels and these"
    return [
        finding(
            "loss-not-reproduced",
            f"two equal calls give different {' and '.join(restless)} (they differ by up to "
            f"{max(restless.values()):.2g} times their size): something random is left on, so no score can be had "
            "twice",
            "look for dropout that `eval()` does not reach (a functional call, a module that was never registered, a "
            f"rate that is handed on as a number), and for noise or augmentation, {where}",
            restless=list(restless),
            relative_difference=max(restless.values()),
        )
    ]


def diagnose_images(routes: ImageRoutes, made: str = VISUAL) -> list[Finding]:
    """Name what is wrong between the images of a batch and what is made of them.

    Args:
        routes: what was measured.
        made: what is made of the images, in words.
    """
    if not routes.finite:
        return [
            finding(
                "non-finite",
                f"the {made} of held-out images{_rows(routes.rows)} hold NaN or infinity, so no loss that is computed "
                "from them means anything",
                "look for NaN or infinity in the checkpoint's weights, then in the tower's features; if both are "
                "finite, score with model.precision fp32",
                rows=list(routes.rows),
            )
        ]  # a route cannot be seen through NaN
    return diagnose_repeats({made: routes.repeated}) or [*_images(routes, made)]


def _images(routes: ImageRoutes, made: str) -> Iterator[Finding]:
    if routes.misplaced:
        yield finding(
            "image-order",
            f"in {len(routes.misplaced)} of {len(routes.rows)} places of a batch the pixels are not those of the "
            "sample that stands there: captions are scored with other samples' images",
            "build the batch's pixels and its texts from the same list of samples, in one order (sort both or neither)",
            places=list(routes.misplaced),
        )
    by_image = routes.by_image
    if by_image is None:
        return
    if not any(by_image):
        yield finding(
            "pixels-unused",
            f"replacing the image by noise changes no bit of the {made} of {_all(len(by_image))} tried: they do not "
            "come from the pixels",
            "check that the tower is called with this batch's pixel values, and that the connector receives its "
            "output (and not a constant, a cached or an empty tensor)",
            routes=_plain(by_image),
        )
        return
    yield from _shared(
        by_image,
        "image",
        made,
        "compute nothing over the batch dimension in tower and connector (batch statistics, a mean over samples), and "
        "let their attention see one sample only",
    )
    if crossed := _crossed(by_image):
        yield finding(
            "image-order",
            f"changing the image of sample {crossed[0]} of a batch changes the {made} of {_who(crossed[1])}: "
            "samples get each other's images",
            "keep the order of the batch through tower and connector: look for a sort, a reversal, a reshape that "
            "mixes batch and patches, or indices of another batch",
            routes=_plain(by_image),
        )


def diagnose_tokens(tokens: TokenRoutes) -> list[Finding]:
    """Name what is wrong between the visual tokens of a batch and its losses; nothing where those are not numbers."""
    if not math.isfinite(tokens.loss):
        return []  # a route cannot be seen through NaN
    return diagnose_repeats({"losses": tokens.repeated}) or [*_tokens(tokens)]


def _tokens(tokens: TokenRoutes) -> Iterator[Finding]:
    routes = tokens.by_row
    if not any(routes):
        if tokens.nan_share > 0:
            yield finding(
                "image-masked",
                "replacing the visual tokens by others changes no loss, though NaN written into them spreads to "
                f"{tokens.nan_share:.0%} of the losses: they are in the sequence, but an attention mask gives them no "
                "weight",
                "build the attention mask from the lengths, with the image positions in it; with a causal model and "
                "padding on the right no mask is needed",
                nan_share=tokens.nan_share,
                routes=_plain(routes),
            )
        else:
            yield finding(
                "not-injected",
                "replacing all visual tokens changes no loss, and neither does writing NaN into them: they are "
                "computed and never reach the language model",
                "put the visual tokens into the embeddings at the image positions, and give the language model those "
                "embeddings (`inputs_embeds`) and not the ids",
                nan_share=tokens.nan_share,
                routes=_plain(routes),
            )
        return
    yield from _shared(
        routes,
        "visual tokens",
        "losses",
        "look between the visual tokens and the loss: a mean or norm over the batch, visual tokens that are placed "
        "into several rows, attention or packing across samples",
    )
    if crossed := _crossed(routes):
        yield finding(
            "image-order",
            f"changing the visual tokens of sample {crossed[0]} of a batch changes the losses of {_who(crossed[1])}: "
            "visual tokens are placed into other samples' prompts",
            "write row i of the visual tokens into row i of the embeddings; `masked_scatter` and boolean indexing fill "
            "row by row, so both tensors must hold the samples in the same order",
            routes=_plain(routes),
        )


def _slots(slots: SlotRoutes, text: TextRoutes) -> Iterator[Finding]:
    if slots.overwritten and text.reach is not None:  # a model that reads other text would read this
        where = " and ".join(_BESIDE.get(place, place) for place in slots.overwritten)
        most = len(slots.overwritten)
        yield finding(
            "placeholder-offset",
            f"changing {where} changes no loss: a visual token was most likely written over "
            f"{agree(most, 'it', 'them')}, beside the image positions instead of into them",
            "write visual token k to the position of the k-th image placeholder id, found by comparing ids and not by "
            "counting from the start of the prompt",
            overwritten=list(slots.overwritten),
            unplaced_slots=list(slots.unplaced),
        )
    elif slots.unplaced:
        yield finding(
            "placeholder-count",
            f"{len(slots.unplaced)} of the {slots.tried} visual tokens of an image that were tried "
            f"{agree(len(slots.unplaced), 'has', 'have')} no effect on any loss (the first is number "
            f"{slots.unplaced[0]}, counted from 0): the prompt has no place for "
            f"{agree(len(slots.unplaced), 'it, or it is', 'them, or they are')} cut off",
            "put as many image positions into the prompt as the connector makes visual tokens (connector.latents), "
            "and cut neither",
            unplaced_slots=list(slots.unplaced),
            tried_slots=slots.tried,
        )


def diagnose_text(text: TextRoutes) -> list[Finding]:
    """Name what is wrong in which token is predicted from which."""
    horizon = text.horizon
    if horizon is None or horizon == 1:
        return []
    if horizon < 0:
        code, fix = "leak", "use a causal attention mask (a decoder's own, no full or prefix mask over the caption)"
        message = (
            f"a caption token's loss depends on the input token {-horizon} {agree(-horizon, 'place', 'places')} after "
            "it: the model sees the answer before it predicts it, so its attention is not causal"
        )
    elif horizon == 0:
        code = "labels-unshifted"
        message = (
            "the loss at a caption token depends on that very token as input: the model is asked to repeat what it "
            "sees instead of predicting what comes next"
        )
        fix = (
            "compare the logits at position t-1 with the label at position t: shift exactly once, in the model or in "
            "the data; if that is right, make attention causal"
        )
    else:
        code = "labels-shifted"
        message = (
            f"the model is asked for the token {horizon} places ahead of the last one it sees instead of the next "
            "one: labels are shifted once too often"
        )
        fix = (
            "compare the logits at position t-1 with the label at position t, once: where the model shifts the labels "
            "itself, the data must not"
        )
    return [finding(code, message, fix, horizon=horizon, reach=text.reach, alignment=text.alignment)]


def _answers(probes: Probes) -> Iterator[Finding]:
    if probes.answers_in_prompt > _ANSWERS:
        yield finding(
            "leak",
            f"the caption, or nearly all of its tokens, already stands in the prompt of {probes.answers_in_prompt:.0%} "
            "of the samples, so it can be copied without looking at the picture",
            "take the caption out of the human turn, or out of prompt.template",
            answers_in_prompt=probes.answers_in_prompt,
        )


def diagnose_neighbours(tokens: TokenRoutes, allowed: float = NEIGHBOURS) -> list[Finding]:
    """Name losses that depend on who shares a batch, on the order in it, or on padding.

    Args:
        tokens: what was measured.
        allowed: nats per label token that rounding explains.
    """
    if not tokens.alone > allowed or _crossed(tokens.by_row):
        return []
    return [
        finding(
            "batch-dependent",
            f"a caption's loss changes by {tokens.alone:.3f} nats/token when it is scored alone instead of in its "
            "batch: padding or another sample reaches it",
            "let attention see no padding and no other sample: causal attention with padding on the right, or a mask "
            "from the lengths; packed samples need a mask and position ids of their own",
            alone=tokens.alone,
        )
    ]


def _crossed(routes: Routes) -> tuple[int, tuple[int, ...]] | None:
    """The first row whose change shows in other rows, and those, where some row's change does not show in its own."""
    if all(row in changed for row, changed in enumerate(routes)):
        return None
    for row, changed in enumerate(routes):
        if others := tuple(other for other in changed if other != row):
            return row, others
    return None


def _shared(routes: Routes, changed: str, reached: str, fix: str) -> Iterator[Finding]:
    """Every row reaches itself, and some reach others as well."""
    wide = [row for row, to in enumerate(routes) if any(other != row for other in to)]
    if wide and all(row in to for row, to in enumerate(routes)):
        others = tuple(other for other in routes[wide[0]] if other != wide[0])
        yield finding(
            "batch-dependent",
            f"in a batch of {len(routes)}, changing the {changed} of sample {wide[0]} also changes the {reached} of "
            f"{_who(others)}: samples are not kept apart",
            fix,
            routes=_plain(routes),
        )


def _who(others: tuple[int, ...]) -> str:
    return f"sample {others[0]}" if len(others) == 1 else f"samples {', '.join(map(str, others))}"


def _plain(routes: Routes) -> list[list[int]]:
    return [list(changed) for changed in routes]


def _rows(rows: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, rows))
    return f" ({agree(len(rows), 'row', 'rows')} {shown})" if shown else ""


def _all(count: int) -> str:
    return agree(count, "the one sample", f"all {count} samples")
