"""Places visual tokens at the image positions of the prompt; if the numbers differ, an error is raised."""

from __future__ import annotations

from torch import Tensor

from eyechart.exits import NamedInputError


def place(embeds_BTE: Tensor, ids_BT: Tensor, visual_BQE: Tensor, patch_id: int) -> Tensor:
    """Replace the embeddings at the patch tokens by visual tokens, in the order of positions.

    Args:
        embeds_BTE: text embeddings of `ids_BT`.
        ids_BT: token ids with exactly Q patch tokens in every row.
        visual_BQE: visual tokens; they are cast to the embeddings' dtype.
        patch_id: the id that marks an image position.

    Returns:
        New embeddings [B,T,E]. Each row gets its own visual tokens; other positions are bitwise equal to `embeds_BTE`.

    Raises:
        ValueError: the numbers of patch tokens and visual tokens of a row differ, or the widths differ.
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
