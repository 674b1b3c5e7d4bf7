"""Puts visual tokens at the image positions of the prompt, and raises an error if their numbers differ."""

from __future__ import annotations

from torch import Tensor

from eyechart.exits import NamedInputError


def place(embeds_BTE: Tensor, ids_BT: Tensor, visual_BQE: Tensor, patch_id: int) -> Tensor:
    """Replace the text embeddings at image positions with visual tokens, in order.

    Args:
        embeds_BTE: text embeddings of `ids_BT`.
        ids_BT: token ids, with exactly Q image positions in every row.
        visual_BQE: visual tokens, which are cast to the dtype of the text embeddings.
        patch_id: the id that marks an image position.

    Returns:
        New embeddings [B,T,E]. Row b contains the visual tokens of row b; all other positions are bitwise equal to
        `embeds_BTE`.

    Raises:
        ValueError: the number of image positions in a row is not Q, or the batch sizes or widths differ.
    """
    batch, latents, width = visual_BQE.shape
    if batch != embeds_BTE.shape[0] or width != embeds_BTE.shape[2]:
        raise ValueError(
            f"visual tokens of shape [B={batch}, Q={latents}, E={width}] do not fit text embeddings of shape "
            f"[B={embeds_BTE.shape[0]}, T={embeds_BTE.shape[1]}, E={embeds_BTE.shape[2]}]"
        )
    patch_BT = ids_BT == patch_id
    counts_B = patch_BT.sum(dim=1)
    if bool((counts_B != latents).any()):
        row = int((counts_B != latents).nonzero()[0])
        raise NamedInputError(
            "placeholder-count",
            f"sample {row} of the batch has {int(counts_B[row])} image positions for {latents} visual tokens",
            "prompt and connector must agree on connector.latents",
        )
    return embeds_BTE.masked_scatter(patch_BT[..., None], visual_BQE.to(embeds_BTE.dtype))
