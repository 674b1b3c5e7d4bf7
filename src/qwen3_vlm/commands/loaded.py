"""Loads a trained connector together with its backbones, and writes captions with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from eyechart.data.images import ImageError, load_image
from eyechart.results import Finding
from eyechart.seam import VisualTokens
from qwen3_vlm.build import Inputs, Prepared, backbone_identities, build_model, prepare_data, prepare_inputs
from qwen3_vlm.config import Config, load_config
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.checkpoint import (
    Payload,
    config_of,
    load_checkpoint,
    refuse_other_backbones,
    restore_connector,
    stored_config,
)
from qwen3_vlm.train.run import Run

_BATCH = 64


@dataclass(frozen=True)
class Loaded:
    """A trained connector together with its backbones."""

    config: Config
    inputs: Inputs
    vlm: VLM
    payload: Payload

    @property
    def step(self) -> int:
        """Number of batches that the connector was trained for; 0 if an older checkpoint does not record it."""
        return int(self.payload.get("step", 0))

    def caption(self, images: Sequence[str | Path], request: str | None = None, max_new_tokens: int = 64) -> list[str]:
        """Write greedy captions of image files.

        Args:
            images: paths of the images.
            request: human turn with one `<image>`; the config's `prompt.caption_request` if None.
            max_new_tokens: largest number of new tokens per caption.

        Returns:
            One caption per image, in the order of the images. Batching does not change the captions.

        Raises:
            ValueError: an image cannot be read; the message contains its path.
        """
        ids_T, _ = self.inputs.prompts.prompt(request or self.config.prompt.caption_request)
        pixels = [self._pixels(Path(image)) for image in images]
        return self.write(pixels, [torch.as_tensor(ids_T)] * len(pixels), max_new_tokens)

    def write(self, pixels: Sequence[Tensor], prompts: Sequence[Tensor], max_new_tokens: int = 64) -> list[str]:
        """Write greedy captions of decoded images (uint8 [3,H,W]), each after its own prompt ids [T_i]."""
        written: list[str] = []
        for start in range(0, len(pixels), _BATCH):
            stop = start + _BATCH
            pixels_BCHW = torch.stack(list(pixels[start:stop])).to(self.vlm.device)
            with torch.no_grad():
                visual = VisualTokens((self.vlm.visual(self.vlm.tower(pixels_BCHW)),))
            ids = self.vlm.generate(list(prompts[start:stop]), visual, max_new_tokens)
            written += [self.inputs.tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]
        return written

    def save_pretrained(self, folder: str | Path, include_backbones: bool = False) -> None:
        """Write the model in the layout of transformers: config.json, and the connector as model.safetensors.

        Args:
            folder: the folder, which is created if it does not exist.
            include_backbones: whether to copy both backbones into the folder, which can then be moved to another
                machine. Otherwise config.json refers to them by hub id, or by the absolute path of a folder.
        """
        # Imported here because the generation code of transformers takes a second to load and only an export needs it.
        from qwen3_vlm.hf import ConnectorVlmConfig, ConnectorVlmForConditionalGeneration

        config = ConnectorVlmConfig.of_run(
            self.config, self.inputs.prompts.ids, backbone_identities(self.config.model, self.vlm), self.step
        )
        ConnectorVlmForConditionalGeneration(config, self.vlm, self.inputs).save_pretrained(folder, include_backbones)

    @property
    def findings(self) -> list[Finding]:
        """Findings that readers of this checkpoint's results should know."""
        if "config" in self.payload or self.config.prompt.image_block == "legacy":
            return []
        message = (
            "this checkpoint has the older format, in which the image block has other tokens, joined with spaces; "
            "with prompt.image_block `spliced` its losses cannot be compared with those of its own training"
        )
        return [
            Finding(
                code="older-image-block",
                severity="warning",
                message=message,
                evidence={"image_block": self.config.prompt.image_block, "has_config": False},
                fix="set prompt.image_block to legacy",
            )
        ]

    def _pixels(self, path: Path) -> Tensor:
        try:
            return load_image(path, self.inputs.spec, self.config.data.max_pixels)
        except ImageError as error:
            raise ValueError(f"{path}: {error}") from error


def load(checkpoint: str | Path, config: Config | None = None) -> Loaded:
    """Load a checkpoint with its backbones.

    Args:
        checkpoint: a `checkpoint_<step>.pt`.
        config: the run's config; by default the one stored in the checkpoint.

    Raises:
        ValueError: the checkpoint cannot be read, has another shape, is not finite or was trained with other backbones,
            or a backbone is missing.
    """
    path = Path(checkpoint)
    payload = load_checkpoint(path)
    config = config or config_of(payload, path)
    inputs = prepare_inputs(config)
    return _said(restored(config, inputs, build_model(config, inputs), payload, path), path)


def open_with_data(path: Path, config: Config | None = None) -> tuple[Loaded, Prepared]:
    """Do the same as `load`, and also read the data of the run. Tokenizer and image settings are loaded only once."""
    payload = load_checkpoint(path)
    config = config or config_of(payload, path)
    prepared = prepare_data(config, path.parent / "split.json")
    vlm = build_model(config, prepared.inputs)
    return _said(restored(config, prepared.inputs, vlm, payload, path), path), prepared


def trained(run: Run) -> Loaded:
    """Return the last checkpoint of a run in the model that was trained, without loading the backbones again."""
    run.vlm.connector.zero_grad(set_to_none=True)
    return restored(run.config, run.prepared.inputs, run.vlm, load_checkpoint(run.checkpoint), run.checkpoint)


def restored(config: Config, inputs: Inputs, vlm: VLM, payload: Payload, path: Path) -> Loaded:
    """Restore a checkpoint's connector in a model. Every command that uses a checkpoint calls this.

    Raises:
        InputError: the checkpoint was trained with other backbones, has another shape, or is not finite.
    """
    refuse_other_backbones(payload, backbone_identities(config.model, vlm), path)
    restore_connector(vlm.connector, payload, path)
    # The optimizer's state takes twice the memory of the connector.
    kept = {key: value for key, value in payload.items() if key not in ("optimizer", "rng")}
    return Loaded(config, inputs, vlm.eval(), kept)


def run_config(config: Path | None, checkpoint: Path | None, overrides: Sequence[str]) -> Config:
    """Return the config that was given to a command, or the one that its checkpoint was trained with.

    Raises:
        ValueError: neither a config nor a checkpoint is given, or it cannot be read.
    """
    if config is not None:
        return load_config(config, overrides)
    if checkpoint is None:
        raise ValueError("diagnose needs --config, --checkpoint, or both")
    return stored_config(checkpoint, overrides)


def _said(loaded: Loaded, path: Path) -> Loaded:
    for finding in loaded.findings:
        sys.stderr.write(f"{finding.severity}: {path}: {finding.message}; {finding.fix}\n")
    return loaded
