"""The model composed of tower, connector, fusion and language model. It implements the interface `eyechart.seam`.

How an image is processed:

pixels_BCHW -> tower (frozen) -> features_BPV -> connector (trained) -> visual_BQE
            -> placed at the image positions of the prompt -> language model (frozen) -> NLL at label positions
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyechart.seam import IGNORE_INDEX, Batch, TokenNLL, VisualTokens
from qwen3_vlm.models.connector import Connector
from qwen3_vlm.models.fusion import place
from qwen3_vlm.models.llm import LanguageModel
from qwen3_vlm.models.vision import VisionTower


@dataclass(frozen=True)
class PartSize:
    """The size of one component, for the list of frozen and trainable parts."""

    name: str
    parameters: int
    trained: bool


class VLM(nn.Module):
    """The assembled model. Only `connector` has parameters that require gradients."""

    def __init__(
        self, tower: VisionTower, connector: Connector, llm: LanguageModel, patch_id: int, eos_id: int
    ) -> None:
        """Compose the parts.

        Args:
            tower: frozen vision tower.
            connector: the connector, which is the trained part.
            llm: frozen language model.
            patch_id: token id of an image position, from the tokenizer.
            eos_id: token id of EOS. It ends a text and also precedes a text that would otherwise begin with a label.

        Raises:
            ValueError: the widths of two connected parts differ.
        """
        super().__init__()
        for part, got, expected in (
            ("vision tower", tower.width, connector.shape.vision_width),
            ("language model", llm.width, connector.shape.text_width),
        ):
            if got != expected:
                raise ValueError(f"the connector expects a {part} of width {expected}, got {got}")
        self.tower, self.connector, self.llm = tower, connector, llm
        self.patch_id, self.eos_id = patch_id, eos_id

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.connector.parameters()).device

    def sizes(self) -> list[PartSize]:
        """Return the number of parameters of every component, and whether it is trained."""
        parts: list[tuple[str, nn.Module | None]] = [
            ("vision tower", self.tower),
            ("vision_ln", self.connector.vision_ln),
            ("resampler", self.connector.resampler),
            ("projector", self.connector.projector),
            ("language model", self.llm),
        ]
        return [
            PartSize(name, sum(p.numel() for p in part.parameters()), any(p.requires_grad for p in part.parameters()))
            for name, part in parts
            if part is not None
        ]

    def features(self, batch: Batch) -> Tensor:
        """Return the tower features [B,P,V] of a batch: cached ones if it contains them, otherwise from its pixels."""
        if batch.features_BPV is not None:
            return batch.features_BPV.to(self.device)
        assert batch.pixels_BCHW is not None, "a text-only batch has no images to encode"
        features_BPV: Tensor = self.tower(batch.pixels_BCHW.to(self.device))
        return features_BPV

    def visual(self, features_BPV: Tensor) -> Tensor:
        """Return the connector's output [B,Q,E], with gradients.

        Its weights are float32; autocast is used if the tower is bfloat16.
        """
        with self.autocast(features_BPV):
            visual_BQE: Tensor = self.connector(features_BPV)
        return visual_BQE

    @torch.no_grad()
    def encode(self, batch: Batch) -> VisualTokens:
        """Return the visual tokens of the images of a batch (scoring interface). Each image is encoded once."""
        return VisualTokens((self.visual(self.features(batch)),))

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        """Return the per-token NLL of a batch (scoring interface).

        The visual tokens are `visual`; if it is None, the image block is left out.
        """
        ids_BT, labels_BT = batch.ids_BT.to(self.device), batch.labels_BT.to(self.device)
        if visual is None:
            keep_BT, rows = ~batch.block_BT.to(self.device), ids_BT.shape[0]
            # Every row loses the same number of tokens, so the remaining tokens can again be one tensor.
            ids_BT, labels_BT = ids_BT[keep_BT].view(rows, -1), labels_BT[keep_BT].view(rows, -1)
            if bool((labels_BT[:, 0] != IGNORE_INDEX).any()):
                # The image block was the whole prompt. The first caption token must still be predicted from a token,
                # and EOS separates texts in pretraining.
                ids_BT = F.pad(ids_BT, (1, 0), value=self.eos_id)
                labels_BT = F.pad(labels_BT, (1, 0), value=IGNORE_INDEX)
            return self.llm.nll(self.llm.embed(ids_BT), labels_BT)
        embeds_BTE = place(self.llm.embed(ids_BT), ids_BT, visual.layers[0].to(self.device), self.patch_id)
        return self.llm.nll(embeds_BTE, labels_BT)

    @torch.no_grad()
    def pair_nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
        """Return the same as `nll(batch, visual.rows(images_B))` (scoring interface), but read each prompt once.

        The keys and values before a caption do not depend on the caption. They are computed once per prompt and image
        and shared by all captions that follow them, so that the cost of a pair is little more than that of its caption.
        If a label comes before the last image position (labels in the prompt, an image after the caption), there is
        nothing to share, and the whole batch is read as by `nll`.
        """
        ids_BT, labels_BT = batch.ids_BT.to(self.device), batch.labels_BT.to(self.device)
        labelled_BT = labels_BT != IGNORE_INDEX
        assert bool(labelled_BT.any(dim=1).all()), "a row without label tokens has nothing to score"
        # The last prompt token is processed with the caption, because its output predicts the first label.
        shared_B = labelled_BT.int().argmax(dim=1) - 1
        places_T = torch.arange(ids_BT.shape[1], device=self.device)
        last_image_B = torch.where(ids_BT == self.patch_id, places_T, -1).amax(dim=1)
        if bool((last_image_B >= shared_B).any()):
            return self.nll(batch, visual.rows(list(images_B)))
        scored: dict[int, Tensor] = {}
        for shared in sorted(set(shared_B.tolist())):
            # Prefixes of equal length need no padding before the captions, and therefore no mask.
            rows = (shared_B == shared).nonzero()[:, 0].tolist()
            prefixes: dict[tuple[int, ...], int] = {}
            keys = [(images_B[row], *ids_BT[row, :shared].tolist()) for row in rows]
            own = [prefixes.setdefault(key, len(prefixes)) for key in keys]
            ids_GT = torch.tensor([key[1:] for key in prefixes], device=self.device)
            visual_GQE = visual.rows([key[0] for key in prefixes]).layers[0].to(self.device)
            cache = self.llm.read(place(self.llm.embed(ids_GT), ids_GT, visual_GQE, self.patch_id))
            cache.batch_select_indices(torch.tensor(own, device=self.device))
            result = self.llm.nll(self.llm.embed(ids_BT[rows, shared:]), labels_BT[rows, shared:], cache)
            scored |= dict(zip(rows, result.per_sample(), strict=True))
        parts = [scored[row] for row in range(len(ids_BT))]
        return TokenNLL(torch.cat(parts), torch.tensor([len(part) for part in parts]))

    @torch.no_grad()
    def stages(self, batch: Batch, connector: Connector | None = None) -> dict[str, Tensor]:
        """Return the output of each stage for a batch: tower [B,P,V], resampler [B,Q,D], projector [B,Q,E].

        If a connector is given, it takes the place of the model's own.
        """
        features_BPV, used = self.features(batch), connector or self.connector
        with self.autocast(features_BPV):
            latents_BQD = used.resample(features_BPV)
            visual_BQE = used.project(latents_BQD)
        return {"tower": features_BPV, "resampler": latents_BQD, "projector": visual_BQE}

    @torch.no_grad()
    def generate(self, prompts: list[Tensor], visual: VisualTokens, max_new_tokens: int) -> list[list[int]]:
        """Write captions greedily.

        Each prompt is [T_i] ids with one image block. The result contains the token ids per prompt, without EOS.
        """
        embedded = []
        for ids_T, visual_QE in zip(prompts, visual.layers[0], strict=True):
            ids_1T = ids_T.to(self.device)[None]
            placed = place(self.llm.embed(ids_1T), ids_1T, visual_QE.to(self.device)[None], self.patch_id)
            embedded.append(placed[0])
        return self.llm.generate(embedded, self.eos_id, max_new_tokens)

    def autocast(self, features_BPV: Tensor) -> AbstractContextManager[object]:
        """Return the context in which a connector computes: autocast to bfloat16 if the features are bfloat16."""
        if features_BPV.dtype == torch.bfloat16:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()
