"""Middle stages of the walk: how visual tokens are put into the prompt, and whether attention can see them."""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor

from eyechart.faults.changes import with_text
from eyechart.faults.experiments import relative, sensitivity
from eyechart.faults.loss_findings import diagnose_tokens
from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from eyechart.seam import IGNORE_INDEX, VisualTokens
from qwen3_vlm.preflight.hooks import watched
from qwen3_vlm.preflight.walk import Walk, many_of, masked, no_gradient, not_injected

# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_OUT_OF_REACH = 0.5
"""Largest share of the image positions that may be invisible to the end of a caption."""


@torch.no_grad()
def fusion_stage(walk: Walk) -> list[Finding]:
    """Check that every visual token is at its own position in the embeddings and all other positions are unchanged."""
    vlm, batch = walk.vlm, walk.batch
    given_BQE = walk.noise(1, vlm.llm.text_rms())
    with watched(vlm) as seen:
        walk.nll(given_BQE)
    if not seen.embeds:
        return [not_injected("the language model is not called with embeddings", placed=0)]
    embeds_BTE = seen.embeds[-1].float().cpu()
    ids_BT, given = batch.ids_BT, given_BQE.float().cpu()
    text_BTE = vlm.llm.model.get_input_embeddings()(ids_BT.to(vlm.device)).float().cpu()
    # The last position may be missing, because nothing is predicted from it.
    length = embeds_BTE.shape[1]
    if embeds_BTE.shape != text_BTE[:, :length].shape or length < text_BTE.shape[1] - 1:
        return (diagnose_tokens(walk.tokens) if walk.tokens else []) or [
            not_injected(f"embeddings of shape {tuple(embeds_BTE.shape)} reach the language model", placed=0)
        ]
    text_BTE = text_BTE[:, :length]
    found = _where_tokens_went(walk, embeds_BTE, text_BTE, given)
    if found:
        return found
    at_BQ = walk.patch_positions()
    real_BT = batch.attention_BT.cpu()[:, :length].clone()
    real_BT[torch.arange(len(batch))[:, None], at_BQ] = False
    off_BT = ((embeds_BTE - text_BTE).abs().amax(-1) > 1e-2 * text_BTE.abs().max()) & real_BT
    if not bool(off_BT.any()):
        return []
    ratio = _one_factor(embeds_BTE[real_BT], text_BTE[real_BT])
    if ratio is not None:
        return [
            finding(
                "scale-mismatch",
                f"the prompt's and caption's embeddings reach the language model multiplied by {ratio:.3g}, but the "
                "visual tokens are not",
                "if your code multiplies text embeddings (for example by the square root of the width), remove this "
                "multiplication; if the language model's own embedding layer does it, scale the visual tokens, too",
                factor=ratio,
            )
        ]
    b, t = off_BT.nonzero()[0].tolist()
    near = min(abs(t - int(p)) for p in at_BQ[b]) <= 1
    return [
        finding(
            "placeholder-offset" if near else "token-id-mismatch",
            f"{int(off_BT.sum())} text {agree(int(off_BT.sum()), 'position does', 'positions do')} not carry the "
            f"embedding of their own token, first position {t} of row {walk.rows[b].sample.row}, which is "
            f"{'next to' if near else 'outside'} the image block",
            "replace embeddings only at image positions, and embed every other id with the language model's own table",
            positions=int(off_BT.sum()),
        )
    ]


def _one_factor(got_NE: Tensor, own_NE: Tensor) -> float | None:
    """Return the factor between these embeddings and those of the table; None if it is not the same for all of them."""
    ratio = float(got_NE.norm() / own_NE.norm().clamp_min(1e-12))
    apart = float((got_NE - ratio * own_NE).norm() / got_NE.norm().clamp_min(1e-12))
    return ratio if apart < 0.01 and abs(ratio - 1) > 0.03 else None


def _where_tokens_went(walk: Walk, embeds_BTE: Tensor, text_BTE: Tensor, given_BQE: Tensor) -> list[Finding]:
    """Search for each visual token of each sample at all positions of all samples."""
    batch, positions, width = embeds_BTE.shape
    flat_NE, given_GE = embeds_BTE.flatten(0, 1), given_BQE.flatten(0, 1)
    cosine_GN = F.normalize(given_GE, dim=-1) @ F.normalize(flat_NE, dim=-1).T
    # The visual tokens have random directions. In 32 dimensions, the best cosine of a thousand unrelated vectors stays
    # below .8; that of a rounded copy is above .999.
    best_G, where_G = cosine_GN.max(dim=1)
    own_G = (torch.arange(batch)[:, None] * positions + walk.patch_positions().cpu()).flatten()
    placed_G = cosine_GN.gather(1, own_G[:, None])[:, 0] > 0.99
    found_G = ~placed_G & (best_G > 0.99)
    other_G = found_G & (where_G // positions != own_G // positions)
    counts = {"own": placed_G, "other sample": other_G, "beside": found_G & ~other_G, "nowhere": ~placed_G & ~found_G}
    went = {name: int(those_G.sum()) for name, those_G in counts.items() if those_G.any()}
    total = len(given_GE)
    if bool(other_G.any()):
        return [
            finding(
                "image-order",
                f"{went['other sample']} of {total} visual tokens are placed in another sample's text",
                "keep each sample's visual tokens in its own row when they are put into the embeddings",
                went=went,
            )
        ]
    if "beside" in went:
        ((shift, count),) = Counter((where_G - own_G)[found_G].tolist()).most_common(1)
        return [
            finding(
                "placeholder-offset",
                f"{went['beside']} of {total} visual tokens are next to their image position, "
                f"{many_of(count, went['beside'])} of them "
                f"{abs(shift)} {agree(abs(shift), 'position', 'positions')} too far {'right' if shift > 0 else 'left'}",
                "put visual token q at the q-th image position, in reading order",
                went=went,
                most_common_shift=shift,
            )
        ]
    if "nowhere" in went and _of_the_caption(walk, given_BQE):
        return [
            finding(
                "leak",
                "the input at the image positions changes with the caption that is to be predicted: the answer "
                "reaches the model through the visual tokens",
                "compute visual tokens from the image alone (if a prompt is encoded with it, the prompt must end "
                "before the answer)",
                placed=went.get("own", 0),
                of=total,
            )
        ]
    if "nowhere" in went:
        there, text = flat_NE[own_G], text_BTE.flatten(0, 1)[own_G]
        instead = "the placeholder token's own embedding" if torch.allclose(there, text) else "something else"
        return [
            not_injected(
                f"{went['nowhere']} of {total} are not in its input embeddings, and at image positions it reads "
                f"{instead}",
                placed=went.get("own", 0),
                of=total,
            )
        ]
    scale = float((flat_NE[own_G].norm(dim=-1) / given_GE.norm(dim=-1)).mean())
    if not 0.97 < scale < 1.03:
        return [
            finding(
                "scale-mismatch",
                f"visual tokens are multiplied by {scale:.3g} before they enter the language model",
                "place the connector's output unchanged",
                factor=scale,
            )
        ]
    return []


def _of_the_caption(walk: Walk, given_BQE: Tensor) -> bool:
    """Whether the embeddings at image positions change if the caption tokens change."""
    at_BQ, seen_by, batch = walk.patch_positions(), [], walk.batch
    own_BT, labels_BT, patch_id = batch.ids_BT, batch.labels_BT, walk.vlm.patch_id
    swapped_BT = torch.where(labels_BT == IGNORE_INDEX, own_BT, own_BT.roll(1, 0))
    for ids_BT in (own_BT, torch.where(swapped_BT == patch_id, own_BT, swapped_BT)):
        other = with_text(batch, ids_BT, torch.where(labels_BT == IGNORE_INDEX, labels_BT, ids_BT.to(labels_BT)))
        with watched(walk.vlm) as seen:
            walk.vlm.nll(other, VisualTokens((given_BQE.to(walk.vlm.device),)))
        seen_by.append(seen.embeds[-1][torch.arange(len(at_BQ))[:, None], at_BQ].float())
    return relative(seen_by[1], seen_by[0]) > 1e-3


def attention_stage(walk: Walk) -> list[Finding]:
    """Check that the loss of a sample depends on all of its image positions and not on other samples."""
    if walk.tokens and (found := diagnose_tokens(walk.tokens)):
        return found
    with watched(walk.vlm, as_leaf=True) as seen, torch.enable_grad():
        nll = walk.nll(walk.noise(2, walk.vlm.llm.text_rms()))
        if not nll.nll_N.requires_grad:
            return [no_gradient("no gradient passes through the language model to its inputs", [], 0)]
        return _out_of_sight(walk, nll.per_sample(), seen.embeds[-1])


def _out_of_sight(walk: Walk, per_sample: list[Tensor], leaf_BTE: Tensor) -> list[Finding]:
    """Report image positions that no caption token sees, or that the end of a caption does not see."""

    def unseen(losses: Tensor, rows: list[int]) -> int:
        size_BQ = sensitivity(losses.sum(), leaf_BTE).gather(1, walk.patch_positions())
        return int((size_BQ[rows] == 0).all(dim=0).sum())

    hidden = unseen(torch.cat(per_sample), [b for b, row in enumerate(walk.rows) if row.targets])
    what = f"{many_of(hidden, walk.latents)} image positions are hidden from every caption token"
    long = [b for b, losses_T in enumerate(per_sample) if len(losses_T) > 1]
    if not hidden and long:
        hidden = unseen(torch.stack([per_sample[b][-1] for b in long]), long)
        hidden = hidden if hidden > _OUT_OF_REACH * walk.latents else 0
        what = (
            f"the last token of a caption does not see {many_of(hidden, walk.latents)} image positions, though its "
            "first does: attention reaches back only a few tokens (a sliding window in config.json of model.llm?)"
        )
    return [masked(what, walk.latents - hidden, hidden / walk.latents)] if hidden else []
