"""Loads a trained connector together with its backbones, and writes captions with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from eyechart.data.images import ImageError, load_image
from eyechart.exits import NamedInputError
from eyechart.printing import err
from eyechart.results import Finding
from eyechart.seam import VisualTokens
from qwen3_vlm.build import (
    Inputs,
    Origin,
    Prepared,
    backbone_identities,
    build_model,
    prepare_data,
    prepare_inputs,
)
from qwen3_vlm.config import Config, load_config
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.checkpoint import (
    JUDGING,
    Payload,
    config_of,
    load_checkpoint,
    restore_connector,
    stored_config,
)
from qwen3_vlm.train.evidence.record import KEY, compare, evidence_of, recorded_split, refuse_backbones_of
from qwen3_vlm.train.run import Run
from qwen3_vlm.train.run_files import require_one_run

_BATCH = 64


@dataclass(frozen=True)
class Loaded:
    """A trained connector together with its backbones."""

    config: Config
    inputs: Inputs
    vlm: VLM
    payload: Payload
    differences: tuple[Finding, ...] = ()
    """The first stage at which what is in use differs from what the checkpoint recorded when it was saved."""
    judged_by: str = "defaults"
    """Where `config.ablation` and `config.coverage` come from: `defaults`, `config`, or the path of a config."""

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
        """Findings about this checkpoint that affect its results."""
        if "config" in self.payload or self.config.prompt.image_block == "legacy":
            return list(self.differences)
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


def open_with_data(path: Path, config: Config | None = None, judged_by: str | None = None) -> tuple[Loaded, Prepared]:
    """Do the same as `load`, and also read the data of the run and compare the canary.

    Tokenizer and image settings are loaded only once.

    Args:
        path: the checkpoint.
        config: as in `load`.
        judged_by: where the settings for judging in `config` come from.

    Raises:
        ValueError: as in `load`, or logs of another run are beside the checkpoint.
    """
    payload = load_checkpoint(path)
    require_one_run(payload, path)
    judged_by = judged_by or ("config" if config else "defaults")
    config = config or config_of(payload, path)
    prepared = data_of(config, payload, path)
    vlm = build_model(config, prepared.inputs)
    loaded = restored(config, prepared.inputs, vlm, payload, path, prepared)
    return replace(_said(loaded, path), judged_by=judged_by), prepared


def data_of(config: Config, payload: Payload, path: Path) -> Prepared:
    """Read the data that a checkpoint was trained on, with the split that it records.

    Raises:
        ValueError: the data are not those of the training, or cannot be read.
    """
    return prepare_data(config, origin=Origin(path, recorded_split(payload, config, path)))


def trained(run: Run) -> Loaded:
    """Return the last checkpoint of a run in the model that was trained, without loading the backbones again.

    Raises:
        NamedInputError: `frozen-moved`: a frozen part has changed since the last check of the training.
    """
    for moved in run.watch.frozen.findings("since the end of the training") if run.watch else ():
        raise NamedInputError(moved.code, moved.message, moved.fix)
    run.vlm.connector.zero_grad(set_to_none=True)
    payload, prepared = load_checkpoint(run.checkpoint), run.prepared
    loaded = restored(run.config, prepared.inputs, run.vlm, payload, run.checkpoint, prepared)
    return replace(loaded, judged_by="config")


def restored(
    config: Config, inputs: Inputs, vlm: VLM, payload: Payload, path: Path, prepared: Prepared | None = None
) -> Loaded:
    """Restore a checkpoint's connector in a model, and compare the checkpoint's evidence with what is in use.

    Every command that uses a checkpoint calls this.

    Args:
        config: the config in use.
        inputs: tokenizer and preprocessing in use.
        vlm: the model with its backbones.
        payload: the content of the checkpoint.
        path: its path, for messages.
        prepared: the data in use; without it, the canary is not compared.

    Raises:
        InputError: the checkpoint is damaged, was trained with other backbones, has another shape, or is not finite.
    """
    evidence_of(payload, path)
    refuse_backbones_of(payload, config, inputs, vlm, path)
    restore_connector(vlm.connector, payload, path)
    differences = compare(payload, config, inputs, vlm.eval(), path, prepared)
    # The optimizer's state takes twice the memory of the connector.
    kept = {key: value for key, value in payload.items() if key not in ("optimizer", "rng")}
    return Loaded(config, inputs, vlm, kept, tuple(differences))


def run_config(config: Path | None, checkpoint: Path | None, overrides: Sequence[str]) -> Config:
    """Return the config that was given to a command, or the one that its checkpoint was trained with.

    Raises:
        ValueError: neither a config nor a checkpoint is given, or the file cannot be read.
    """
    if config is not None:
        return load_config(config, overrides)
    if checkpoint is None:
        raise ValueError("diagnose needs --config, --checkpoint, or both")
    return stored_config(checkpoint, overrides)


def judge_of(config: Path | None, overrides: Sequence[str]) -> str:
    """Return where the settings for judging come from, for the results: `defaults` or a config, and overrides."""
    changed = [part for part in overrides if part.lstrip("-").split(".")[0] in JUDGING and part.startswith("--")]
    return " ".join([str(config) if config else "defaults", *(["with", *changed] if changed else [])])


def _said(loaded: Loaded, path: Path) -> Loaded:
    evidence = loaded.payload.get(KEY)
    if evidence is None or evidence["canary"] is None:
        lacks = "evidence of its training (it is of an older version)" if evidence is None else "canary"
        err(f"note: {path} has no {lacks}; less can be compared with the training")
    for finding in loaded.findings:
        err(f"{finding.severity}: {path}: {finding.message}; {finding.fix}")
    return loaded
