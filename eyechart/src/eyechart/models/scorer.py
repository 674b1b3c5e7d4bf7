"""Adapts any transformers image-text-to-text model to the scoring interface of the checks.

The vision half runs once per image, in a forward pass that ends when `get_image_features` has been called. To score, a
forward pass on ids gets visual tokens in one of the ways of `models.doors`: as an argument, or as the return value of
`get_image_features` for placeholder pixels. A model that supports neither gets other pixels, and its visual tokens are
pixel values. Padding is on the right, with an attention mask; the model computes its own position ids.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from eyechart.exits import InputError
from eyechart.models.doors import OFFICIAL, feature_doors
from eyechart.models.gate import FeatureGate
from eyechart.models.image_inputs import PER_TOKEN_INPUTS, ImageInputs
from eyechart.models.layout import Layout, LayoutError
from eyechart.processors.prompts import PromptWriter
from eyechart.results import DoorName
from eyechart.rows import PLACEHOLDER
from eyechart.seam import IGNORE_INDEX, Batch, TokenNLL, VisualTokens


class TransformersScorer:
    """The methods `encode` and `nll` of the scoring interface for a model of unknown architecture."""

    @torch.no_grad()
    def __init__(self, name: str, model: nn.Module, prompts: PromptWriter, prompt: str, image: Image.Image) -> None:
        """Determine the structure of the model's visual tokens.

        Args:
            name: name of the model, for messages.
            model: the model, in eval mode and on its device.
            prompts: writes the model's prompts.
            prompt: any prompt with one image, as text (`PromptWriter.text`).
            image: any image at the common size.

        Raises:
            ValueError: the model's image features cannot be replaced.
        """
        self.name, self.model, self.prompts = name, model, prompts
        self._image = image
        self._parameters = set(inspect.signature(model.forward).parameters)
        self._placeholders: dict[int, dict[str, Tensor]] = {}
        self._inputs = ImageInputs(prompts, prompt, image, self._parameters)
        inputs = prompts.inputs([prompt], [image])
        self._ids_T = inputs["input_ids"][0]
        self._types = self._learn_types(inputs)
        self._refuse_prompt_dependence()
        self.doors: tuple[DoorName, ...] = tuple(kind.name for kind in feature_doors(model)) or ("pixels",)
        """The ways in which the model's images can be replaced, the best one first."""
        self.tokens = int((self._ids_T == prompts.image_id).sum())
        """Q, the number of visual tokens per image."""
        self.layers = 1
        """Number of layers at which the language model receives visual tokens: 1, or more with deepstack features."""
        self.one_by_one = False
        """Whether the features of an image depend on its position among other images; each is then encoded alone."""
        self.why_pixels = ""
        """Why image features cannot be replaced; empty if they can."""
        if self.doors != ("pixels",):
            try:
                self._open_features(model)
            except LayoutError as error:
                self.doors, self.why_pixels = ("pixels",), str(error)
        self._pixel_shapes = self._learn_pixels() if self.doors == ("pixels",) else {}
        self.door: DoorName = self.doors[0]
        """The one that is used."""
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]  # nn.Module
        """Number of tokens in the model's vocabulary."""

    @property
    def prefix_attention(self) -> bool:
        """Whether attention is bidirectional in the prompt; token types then separate the prompt from the answer."""
        return any(prompt != answer for _, prompt, answer in self._types.values())

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return _embeddings(self.model).device

    def pixels(self, pixels_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the image inputs for uint8 images at the common size: pixels, grids and masks."""
        return self._placed(self._inputs.of(pixels_BCHW))

    def placeholder(self, count: int) -> dict[str, Tensor]:
        """Return the output of the model's processor for `count` copies of one placeholder image."""
        if count not in self._placeholders:
            self._placeholders[count] = self._placed(self._inputs.copies(self._image, count))
        return self._placeholders[count]

    def image_positions(self, pixels_BCHW: Tensor) -> list[int]:
        """Return the number of image positions that the processor makes for each image; the model is not run."""
        return self._inputs.positions(pixels_BCHW)

    @torch.no_grad()
    def encode(self, batch: Batch) -> VisualTokens:
        """Implement `Scorer.encode`: encode the images of a batch to visual tokens, each image once.

        Raises:
            ValueError: an image has a different number of visual tokens than the others.
        """
        assert batch.pixels_BCHW is not None, "a text-only batch has no images to encode"
        if self.one_by_one and len(batch) > 1:
            return VisualTokens.cat([self.encode(batch.rows([place])) for place in range(len(batch))])
        if self.door == "pixels":
            made = self.pixels(batch.pixels_BCHW)
            flat = [made[key].reshape(len(batch), -1) for key in self._pixel_shapes]
            return VisualTokens((torch.cat(flat, dim=1)[:, :, None],))
        try:
            return self._layout.take(self._features(self.pixels(batch.pixels_BCHW), len(batch)), len(batch))
        except LayoutError as error:
            rows = ", ".join(str(sample.row) for sample in batch.samples)
            raise ValueError(
                f"MODEL: {self.name} made a different number of visual tokens for an image among the rows {rows} "
                f"({error}); remove its row from the data file"
            ) from error

    @torch.no_grad()
    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        """Implement `Scorer.nll`: per-token NLL of a batch with these visual tokens, or of text without image block."""
        images = {} if visual is None else self.placeholder(len(visual))
        return self.forward(batch.ids_BT, batch.labels_BT, batch.lengths_B, images, visual)

    def forward(
        self,
        ids_BT: Tensor,
        labels_BT: Tensor,
        lengths_B: Tensor,
        images: dict[str, Tensor],
        visual: VisualTokens | None,
    ) -> TokenNLL:
        """Run one forward pass and return the per-token NLL.

        Args:
            ids_BT: token ids, padded on the right.
            labels_BT: labels, with IGNORE_INDEX at positions that are not scored.
            lengths_B: number of tokens in each row without padding.
            images: output of the processor for the images; empty if there is no image.
            visual: visual tokens to use instead of those that the model computes from `images`; None uses its own.
        """
        labels_BT = labels_BT.to(self.device)
        inputs = {**self.text_inputs(ids_BT, labels_BT, lengths_B), **images, "use_cache": False}
        # Position t is predicted from t-1, and only columns in which some row has a label need logits.
        columns = (labels_BT[:, 1:] != IGNORE_INDEX).any(dim=0).nonzero()[:, 0]
        short = self.takes("logits_to_keep")
        if short:
            inputs["logits_to_keep"] = columns
        if visual is None:
            logits_BTK = self.model(**inputs).logits
        else:
            with self.giving(inputs, visual.map(lambda layer: layer.to(self.device))) as given:
                logits_BTK = self.model(**given).logits
        logits_BTK = logits_BTK if short else logits_BTK[:, columns]
        targets_BT = labels_BT[:, columns + 1]
        keep_BT = targets_BT != IGNORE_INDEX
        nll_N = F.cross_entropy(logits_BTK[keep_BT].float(), targets_BT[keep_BT], reduction="none")
        return TokenNLL(nll_N, keep_BT.sum(dim=1))

    def takes(self, name: str) -> bool:
        """Return whether the model's forward pass has an argument of this name."""
        return name in self._parameters

    @contextmanager
    def giving(self, inputs: dict[str, Any], visual: VisualTokens) -> Iterator[dict[str, Any]]:
        """Return the inputs with which a forward pass, inside the block, uses these visual tokens."""
        if self.door == "pixels":
            sizes = [math.prod(shape) for shape in self._pixel_shapes.values()]
            parts = torch.split(visual.layers[0][:, :, 0], sizes, dim=1)
            pixels = {
                key: part_BX.reshape(len(visual) * shape[0], *shape[1:]).to(inputs[key].dtype)
                for (key, shape), part_BX in zip(self._pixel_shapes.items(), parts, strict=True)
            }
            yield {**inputs, **pixels}
        elif self.door == "encoder-outputs":
            without = {key: value for key, value in inputs.items() if key not in self._pixel_keys}
            yield {**without, OFFICIAL: {"image": self._layout.put(visual)}}
        else:
            with self._gate.answering(self._layout.put(visual)):
                yield inputs

    def _open_features(self, model: nn.Module) -> None:
        """Determine the form of the image features.

        Raises:
            LayoutError: the form is not supported, or no image features are computed.
        """
        self._gate = FeatureGate(model)
        one, two = (self._features(self.placeholder(count), count) for count in (1, 2))
        self._layout = Layout.learn(one, two)
        reference = self._layout.take(one, 1)
        self.tokens, self.layers = int(reference.layers[0].shape[1]), len(reference.layers)
        pair = zip(self._layout.take(two, 2).layers, reference.layers, strict=True)
        self.one_by_one = any(not torch.allclose(both[1], alone[0], rtol=1e-4, atol=1e-5) for both, alone in pair)

    def _refuse_prompt_dependence(self) -> None:
        """Raise an error if the processor's image inputs depend on the text of the prompt.

        Visual tokens are computed once per image and used with every prompt.

        Raises:
            InputError: an input depends on the text, such as the prompt's ids for the Q-Former of InstructBLIP.
        """
        texts = [self.prompts.text(f"{PLACEHOLDER}\n{words}") for words in ("Why?", "What does the picture show?")]
        short, long = (self._inputs.made([self._image], text) for text in texts)
        differ = [key for key in short if short[key].shape != long[key].shape or (short[key] != long[key]).any()]
        if differ:
            raise InputError(
                f"MODEL: {self.name}: its inputs for an image depend on the prompt ({', '.join(differ)}), so "
                "an image cannot be encoded once for all prompts",
                "pass the model itself and batches of a collator to eyechart.score",
            )

    @property
    def _pixel_keys(self) -> list[str]:
        """Names of the processor's pixel tensors."""
        return [key for key, value in self.placeholder(1).items() if value.is_floating_point()]

    def _learn_pixels(self) -> dict[str, tuple[int, ...]]:
        """Return the names of the pixel tensors, and the shape of one image's part of each.

        Raises:
            InputError: the processor returns none, or a tensor's size does not increase with the number of images.
        """
        one, two = self.placeholder(1), self.placeholder(2)
        found = {key: tuple(one[key].shape) for key in self._pixel_keys}
        if not found or any(tuple(two[key].shape) != (2 * n, *rest) for key, (n, *rest) in found.items()):
            raise InputError(
                f"MODEL: {self.name}: neither its image features nor its pixels can be replaced: its processor makes "
                f"{', '.join(f'{key} of shape {tuple(two[key].shape)}' for key in found) or 'no pixels'} for two images"
                f"{self.why_pixels and f', and of its image features: {self.why_pixels}'}",
                "pass the model itself and batches of a collator to eyechart.score",
            )
        return found

    def prompt_inputs(self, ids_BT: Tensor) -> dict[str, Any]:
        """Return the model's inputs for prompts of equal length, without an answer and without images."""
        return self.text_inputs(
            ids_BT, torch.full_like(ids_BT, IGNORE_INDEX), torch.full((len(ids_BT),), ids_BT.shape[1])
        )

    def _features(self, images: dict[str, Tensor], count: int) -> Any:
        """Return the output of `get_image_features` for the images of `count` samples that all have the same prompt."""
        text = self.prompt_inputs(self._ids_T.expand(count, -1))
        features = self._gate.catch(lambda: self.model(**text, **images))
        if features is None:
            raise LayoutError("a forward pass does not compute them (get_image_features is not called)")
        return features

    def text_inputs(self, ids_BT: Tensor, labels_BT: Tensor, lengths_B: Tensor) -> dict[str, Any]:
        """Return the model's inputs for the text of a batch: ids, mask and token types, each [B,T]."""
        ids_BT = ids_BT.to(self.device)
        positions_T = torch.arange(ids_BT.shape[1], device=self.device)
        types = {}
        for key, (image, prompt, answer) in self._types.items():
            # Answers begin at the first label; positions after a row's last label are padding, and masked.
            answered_BT = (labels_BT.to(self.device) != IGNORE_INDEX).cumsum(dim=1) > 0
            types_BT = torch.where(answered_BT, answer, prompt)
            types[key] = torch.where(ids_BT == self.prompts.image_id, image, types_BT)
        attention_BT = (positions_T[None] < lengths_B.to(self.device)[:, None]).long()
        return {"input_ids": ids_BT, "attention_mask": attention_BT, **types}

    def _learn_types(self, inputs: Mapping[str, Tensor]) -> dict[str, tuple[int, int, int]]:
        """Return, for each per-token input of the processor, its value at image positions, in prompts and in answers.

        Raises:
            ValueError: an input does not follow this pattern.
        """
        image_BT = inputs["input_ids"] == self.prompts.image_id
        learnt = {}
        for key in PER_TOKEN_INPUTS:
            if key in inputs and key in self._parameters:
                image, prompt = (sorted(set(inputs[key][mask_BT].tolist())) for mask_BT in (image_BT, ~image_BT))
                if len(image) != 1 or len(prompt) > 1:
                    raise ValueError(
                        f"MODEL: {self.name}: expected its {key} to distinguish image positions from text, got "
                        f"{image} at image positions and {prompt} elsewhere"
                    )
                text = prompt[0] if prompt else 0
                # Token types that do not mark images mark the prefix that has bidirectional attention (PaliGemma).
                learnt[key] = (image[0], text, text if image[0] != text else text + 1)
        return learnt

    def _placed(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        moved = {key: value.to(self.device) for key, value in inputs.items()}
        dtype = _embeddings(self.model).dtype
        return {key: value.to(dtype) if value.is_floating_point() else value for key, value in moved.items()}


def _embeddings(model: nn.Module) -> Tensor:
    """Return the weight whose device and dtype the inputs must have; others may be quantised or on other devices."""
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[operator]  # nn.Module
    return weight if weight.is_floating_point() else next(model.parameters())
