"""Prepares the data and builds the model of a config, with the same functions for training, scoring and captioning."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyechart.data.dataset import Dataset, judge_rejects
from eyechart.data.images import ImageSpec
from eyechart.data.reader import count_rows, find_image_root, open_rows, read_rows
from eyechart.exits import InputError
from eyechart.hub import explain_absence
from eyechart.models.device import DTYPES, choose_device
from eyechart.models.hashing import combined
from eyechart.seam import Reject, Row
from eyechart.stored import file_of
from qwen3_vlm.config import Config, ConnectorConfig, DataConfig, ModelConfig
from qwen3_vlm.data.prompt import PromptBuilder
from qwen3_vlm.data.recorded import RecordedSplit
from qwen3_vlm.data.repeats import without_repeats
from qwen3_vlm.data.splits import DataFile, Split, describe, draw_split, load_split
from qwen3_vlm.demo.worlds import ensure, ensure_in_place
from qwen3_vlm.models.connector import ConnectorShape, fresh_connector
from qwen3_vlm.models.files import load_config_only
from qwen3_vlm.models.llm import LanguageModel, load_llm, load_tokenizer
from qwen3_vlm.models.vision import VisionTower, load_image_spec, load_tower
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.shipped import locate

_KINDS = {"model.llm": ("qwen3",), "model.vision": ("siglip_vision_model", "siglip")}
"""Accepted values of `model_type` in config.json. `siglip` is a SigLIP checkpoint that also has the text tower."""


_LOOKED_FOR = 16
"""Number of rows whose image files are searched for before any other work starts."""


@dataclass(frozen=True)
class Inputs:
    """The tokenizer, prompts and image preprocessing of a vision tower and a language model."""

    tokenizer: Any
    prompts: PromptBuilder
    spec: ImageSpec

    @property
    def pad_id(self) -> int:
        """The id of the token that pads sequences on the right. Masks are computed from lengths, never from this id."""
        return int(self.tokenizer.eos_token_id)


@dataclass(frozen=True)
class Prepared:
    """The prepared data of a run. No model has been loaded yet."""

    config: Config
    inputs: Inputs
    split: Split
    files: tuple[DataFile, DataFile | None]
    """The data file, and the fixed held-out file (None if there is none)."""
    train: Dataset
    eval: Dataset
    rejects: dict[str, tuple[Reject, ...]]
    """Rows found to be unusable before any image was opened, by side of the split (`train`, `eval`)."""


def prepare_inputs(config: Config) -> Inputs:
    """Load the tokenizer, the prompts and the image preprocessing, using the backbones' own files.

    Raises:
        ValueError: a backbone is missing, or the tokenizer lacks the tokens of the image block.
    """
    tokenizer = load_tokenizer(config.model.llm)
    prompts = PromptBuilder(tokenizer, config.prompt, config.connector.latents, config.data.max_seq_len)
    return Inputs(tokenizer, prompts, load_image_spec(config.model.vision))


@dataclass(frozen=True)
class Origin:
    """The checkpoint for which data are prepared, and the split recorded in it."""

    checkpoint: Path
    recorded: RecordedSplit | None
    """The split recorded in the checkpoint; None if the checkpoint has an older format."""

    @property
    def split_file(self) -> Path:
        """The path of the run's split.json. It need not exist, because a copy of the `.pt` file alone is enough."""
        return self.checkpoint.parent / "split.json"


def prepare_data(config: Config, saved_split: Path | None = None, origin: Origin | None = None) -> Prepared:
    """Read the rows, draw or load the split, and encode prompts and captions.

    If the split is drawn here, training rows that show the picture of a held-out row are removed from it. A saved split
    is not changed, and neither is a split with a fixed held-out file.

    Args:
        config: the config of the run.
        saved_split: the path of the split.json of an earlier run. If the file exists, its split is used, and the data
            must be the same as in that run.
        origin: the checkpoint to score. The split recorded in this checkpoint is used. An embedded world (a built-in
            demo data set) is generated only in its standard folder, never at another path that the checkpoint names.

    Raises:
        ValueError: a file is missing or broken, the data are not those of `origin`, too many rows are unusable, or
            sequences have no room for text. The message is one line.
    """
    if config.data.world != "none":
        if origin is None:
            _refuse_own_rows(config.data)
        make = ensure if origin is None else ensure_in_place
        make(config.data.world, Path(config.data.image_root))
    complain_of_missing(config.data, config.model)
    inputs = prepare_inputs(config)
    json_file = Path(config.data.json_file)
    eval_file = Path(config.data.eval_json) if config.data.eval_json else json_file
    layout = config.data.layout
    held_out_file = _described(eval_file, layout) if config.data.eval_json else None
    files = _described(json_file, layout), held_out_file
    saved_split = saved_split if origin is None else origin.split_file
    recorded = origin.recorded if origin is not None else None
    saved = recorded is not None or (saved_split is not None and saved_split.is_file())
    if origin is not None and recorded is not None:
        split = recorded.checked(*files, saved_split, str(origin.checkpoint))
    elif saved_split is not None and saved:
        split = load_split(saved_split, *files)
    elif files[1] is not None:
        drawn = draw_split(files[0].rows, config.data.max_samples, 0.0, config.seed)
        split = Split(train=drawn.train, eval=tuple(range(files[1].rows)))
    else:
        split = draw_split(files[0].rows, config.data.max_samples, config.data.eval_ratio, config.seed)
    root = config.data.image_root
    of_train = read_rows(json_file, split.train, root, layout)
    of_eval = read_rows(eval_file, split.eval, root, layout)
    _require_images(config.data, json_file, of_train[0])
    if not saved and files[1] is None:
        split = without_repeats(split, of_eval[0], of_train[0], Path(root))
    train, train_rejects = _dataset(config.data, inputs, of_train, split.train, "training")
    held_out, eval_rejects = _dataset(config.data, inputs, of_eval, split.eval, "held-out")
    if config.data.workers:
        # Set this only after the encoding, which may use all threads: processes that are forked later must use none.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    rejects = {"train": train_rejects, "eval": eval_rejects}
    return Prepared(config, inputs, split, files, train, held_out, rejects)


def _described(file: Path, layout: str) -> DataFile:
    return describe(file, count_rows(file, layout))


def _refuse_own_rows(data: DataConfig) -> None:
    """Raise an error if the config requests an embedded world, but the data file is elsewhere and has its own images.

    This check runs before the world (a built-in demo data set) is generated.

    Raises:
        ValueError: the data file has its own images, or it cannot be read.
    """
    file = Path(data.json_file)
    if file.exists() and not file.resolve().is_relative_to(Path(data.image_root).resolve()):
        opened = open_rows(file, data.layout, data.image_root)
        _require_images(data, file, opened.read(range(min(_LOOKED_FOR, len(opened))))[0])


def _require_images(data: DataConfig, file: Path, rows: Sequence[Row]) -> None:
    """Raise an error early if the images of the first rows are not below the image root, but near the data file.

    Raises:
        InputError: the images are in another folder.
    """
    first = [row.image for row in rows[:_LOOKED_FOR]]
    if any(file_of(Path(data.image_root) / image).is_file() for image in first):
        return
    folder = find_image_root(file, first)
    if folder is not None:
        world = " --data.world none" if data.world != "none" else ""
        raise InputError(
            f"data.image_root {data.image_root}: none of the first {len(first)} images is below it, such as "
            f"{first[0]}; they are below {folder}",
            f"add --data.image_root {folder}{world}",
        )


def _dataset(
    data: DataConfig, inputs: Inputs, read: tuple[list[Row], list[Reject]], rows: tuple[int, ...], label: str
) -> tuple[Dataset, tuple[Reject, ...]]:
    place, rejects = {row: i for i, row in enumerate(rows)}, list(read[1])
    found = sorted((record for record in read[0] if record.row in place), key=lambda record: place[record.row])
    pairs = list(zip(found, inputs.prompts.encode(found), strict=True))
    rejects += [item for _, item in pairs if isinstance(item, Reject)]
    records = [record for record, item in pairs if not isinstance(item, Reject)]
    encoded = [item for _, item in pairs if not isinstance(item, Reject)]
    judge_rejects(rejects, len(rows), data.max_rejected, label)
    dataset = Dataset(records, encoded, Path(data.image_root), inputs.spec, data.max_pixels)
    return dataset, tuple(rejects)


def complain_of_missing(data: DataConfig, backbones: ModelConfig) -> None:
    """Report in one line everything that is missing for a run, before any work is done.

    Raises:
        ValueError: something is missing, and the message describes how to get it; or a backbone has the wrong type.
    """
    missing = []
    for setting, path in (("data.json_file", data.json_file), ("data.eval_json", data.eval_json)):
        if path is not None and not Path(path).exists() and "*" not in Path(path).name:
            missing.append(f"{setting} {path}")
    if not Path(data.image_root).is_dir():
        missing.append(f"data.image_root {data.image_root}")
    if missing and "llava_pretrain" in data.json_file:
        missing[-1] += (
            " (get LLaVA-Pretrain with `hf download --repo-type dataset liuhaotian/LLaVA-Pretrain --local-dir "
            f"{data.image_root}` and unzip its images.zip there)"
        )
    elif missing:
        missing[-1] += f" (set these to where the data is; relative paths start at {Path.cwd()})"
    kinds = []
    for setting, name in (("model.llm", backbones.llm), ("model.vision", backbones.vision)):
        try:
            kinds.append((setting, name, load_config_only(name).get("model_type")))
        except (OSError, ValueError) as error:
            missing.append(explain_absence(name, setting, error))
    if missing:
        raise ValueError("missing: " + "; ".join(missing))
    for setting, name, kind in kinds:
        if kind not in _KINDS[setting]:
            raise ValueError(f"{setting}: expected a model of type {' or '.join(_KINDS[setting])}, {name} is {kind!r}")


def connector_shape(settings: ConnectorConfig, tower: VisionTower, llm: LanguageModel) -> ConnectorShape:
    """Return the dimensions of the connector, which depend on its settings and on the backbones."""
    return ConnectorShape(
        vision_width=tower.width, text_width=llm.width, patches=tower.patches, **settings.model_dump()
    )


def build_model(config: Config, inputs: Inputs) -> VLM:
    """Load the frozen backbones and initialise a new connector, on the device given by the config.

    The initial weights of the connector depend only on the seed.

    Raises:
        ValueError: a backbone is missing or incomplete, or the device does not support the requested settings.
    """
    device, dtype = choose_device(config.model, config.threads), DTYPES[config.model.precision]
    tower = load_tower(locate(config.model.vision), inputs.spec, dtype, config.model.attention)
    llm = load_llm(locate(config.model.llm), dtype, config.model.attention)
    shape = connector_shape(config.connector, tower, llm)
    connector = fresh_connector(shape, config.seed, llm.text_rms() if shape.output_norm else 1.0)
    return VLM(tower, connector, llm, inputs.prompts.ids.patch, inputs.prompts.ids.eos).to(device)


def backbone_identities(named: ModelConfig, vlm: VLM) -> dict[str, dict[str, Any]]:
    """Return the name, the width and a digest of all weights of each backbone, which identify it in a checkpoint."""
    return {
        "vision": {"name": named.vision, "width": vlm.tower.width, "digest": combined(vlm.tower.hashes)},
        "llm": {"name": named.llm, "width": vlm.llm.width, "digest": combined(vlm.llm.hashes)},
    }
