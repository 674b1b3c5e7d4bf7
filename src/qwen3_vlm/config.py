"""Reads YAML into a frozen, validated Config. All checks that involve several fields are in this file.

    config = load_config(Path("configs/stage1_align_tiny.yaml"), ["--train.lr", "1e-3"])

Relative paths in a config are relative to the working directory, as in the runbook (`cd qwen3-vlm` first); configs
and backbones that come with the package are found from anywhere (`shipped`).

The file has over 300 lines because it defines and describes every setting; docs/config.md is generated from it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from eyechart.data.reader import folder_of
from eyechart.exits import MOST_THREADS, NamedInputError
from eyechart.outside import bounds
from eyechart.outside.regular import read_text
from eyechart.outside.shown import short
from eyechart.outside.yaml_text import YamlError, parse_value, parse_yaml, write_yaml
from eyechart.settings import MOST, MOST_SEED, AblationSettings, CoverageSettings, Placement, Section
from qwen3_vlm.shipped import locate


class ModelConfig(Placement):
    """The two frozen backbones."""

    prefix: ClassVar[str] = "model."
    vision: str = "google/siglip2-so400m-patch14-384"
    """SigLIP vision tower: a folder in save_pretrained layout, or a hub id."""
    llm: str = "Qwen/Qwen3-8B-Base"
    """Qwen3 language model: a folder in save_pretrained layout, or a hub id."""


class ConnectorConfig(Section):
    """The connector, which is the only trained part of the model."""

    latents: int = Field(64, ge=1, le=65_536)
    """Q: visual tokens per image."""
    depth: int = Field(2, ge=1, le=1000)
    """Resampler layers."""
    heads: int = Field(8, ge=1, le=1024)
    """Attention heads of the resampler."""
    head_dim: int = Field(64, ge=1, le=8192)
    """Width of one head; the resampler's width is heads * head_dim."""
    mlp_ratio: float = Field(4.0, gt=0, le=1000)
    """Hidden width of the projector, divided by the language model's embedding width."""
    vision_ln: bool = False
    """Train a LayerNorm on the tower's features."""
    key_positions: bool = False
    """Add learned positions to the projected patches."""
    output_norm: bool = False
    """Scale each visual token to the RMS of the language model's text embeddings."""


class PromptConfig(Section):
    """The text that the language model reads before the caption."""

    template: str = "{human}\n"
    """Text before the caption; `{human}` is the row's own human turn, whose `<image>` becomes the image block. A
    template without `{human}` must contain `<image>` itself, once: every row then gets the same prompt."""
    image_block: Literal["spliced", "legacy"] = "spliced"
    """spliced: one id each for the start, the Q patch tokens and the end. legacy: the tokens of the older format,
    joined with spaces."""
    caption_request: str = "<image>\nDescribe the picture."
    """The human turn used by `qwen3-vlm caption` for images without a human turn."""


class DataConfig(Section):
    """The data of the run."""

    world: Literal["none", "scenes", "digits"] = "none"
    """Generate this embedded data set under `image_root` first, if it does not exist."""
    json_file: str = "data/llava_pretrain/blip_laion_cc_sbu_558k.json"
    """The rows: JSON, JSON Lines, CSV, Parquet, Arrow, a WebDataset archive, or a folder with one of them or with
    images and texts (docs/data.md). A pattern such as `data/train-*.parquet` names several files."""
    layout: str = "auto"
    """Layout of the rows: auto, a name (llava, sharegpt, messages, prompt-completion, captions), or the keys of their
    parts, such as `captions,image=picture,caption=title`."""
    image_root: str = "data/llava_pretrain"
    """Folder that the rows' image paths are relative to; if it is not set, the folder of `json_file`."""
    eval_json: str | None = None
    """A fixed held-out file (images under `image_root`). Without it, `eval_ratio` of the rows is held out."""
    max_samples: int | None = Field(None, ge=1, le=MOST)
    """Rows drawn by seed from the file, training and held-out together; null uses all rows."""
    eval_ratio: float = Field(0.02, ge=0, lt=1)
    """Share of the drawn rows that is held out. Training rows that show a held-out picture are removed."""
    max_seq_len: int = Field(512, ge=4, le=MOST)
    """Tokens per sequence: image block, prompt, caption and EOS."""
    max_rejected: float = Field(0.01, ge=0, le=1)
    """Share of unusable rows above which the run stops. A single unusable row stops it only if the value is 0."""
    max_pixels: int = Field(178_956_970, ge=1, le=MOST)
    """Images with more pixels are rejected before they are decoded. The default is Pillow's limit against decompression
    bombs."""
    cache_features: Literal["auto", "on", "off"] = "auto"
    """Keep the frozen tower's features in a temporary file, so that the tower runs once per image instead of once per
    epoch."""
    cache_gb: float = Field(2.0, gt=0)
    """With `auto`, features are cached if they take at most this many gigabytes (float32 or bfloat16 as computed), and
    at most half of the free space on the disk of `output_dir`."""
    workers: int = Field(0, ge=0, le=1024)
    """Processes that read images ahead; 0 reads in the training process."""

    @field_validator("cache_features", mode="before")
    @classmethod
    def _on_and_off_are_words_here(cls, value: object) -> object:
        """Accept booleans, too: other readers of YAML take a bare `on` or `off` for one."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @model_validator(mode="before")
    @classmethod
    def _images_are_next_to_the_rows(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("image_root") is not None:
            return values
        file = values.get("json_file")
        if not isinstance(file, str):
            return {key: value for key, value in values.items() if key != "image_root"}
        return values | {"image_root": str(folder_of(file))}


class TrainConfig(Section):
    """Stage 1 alignment."""

    batch_size: int = Field(4, ge=1, le=MOST)
    """Samples per batch over all ranks; the step in `checkpoint_<step>.pt` counts these."""
    accumulation: int = Field(4, ge=1, le=MOST)
    """Batches per optimizer update."""
    micro_batch_size: int | None = Field(None, ge=1, le=MOST)
    """Samples per forward pass. It affects speed and memory, not the gradient; null means `batch_size`."""
    epochs: int = Field(3, ge=1, le=MOST)
    """Passes over the training split."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "one-cycle", "constant"] = "cosine"
    """Learning rate after the warm-up. one-cycle also uses a cosine for the warm-up, starts at lr/25 and ends at
    lr/250000."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the updates during which the learning rate rises."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay, applied to matrices and vectors."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's running-average factors."""
    clip: float = Field(1.0, gt=0)
    """Maximum norm of the whole gradient; larger gradients are scaled down."""
    save_every: int | None = Field(None, ge=1, le=MOST)
    """Steps between checkpoints; a save waits for the end of its accumulation window. A checkpoint is always saved at
    the end of an epoch."""
    keep_last: int | None = Field(None, ge=1, le=MOST)
    """Number of checkpoints to keep: after each save, older ones are deleted; null keeps all."""
    keep_every: int | None = Field(None, ge=1, le=MOST)
    """With `keep_last`, also keep the first checkpoint at or after each multiple of this number of steps."""
    tracker: Literal["tensorboard", "wandb", "mlflow", "none"] = "tensorboard"
    """Where to log curves of loss, learning rate and gradient norm; for TensorBoard, `output_dir`/tracker."""
    ablate_every: Literal["off", "log"] | int = "log"
    """Score 16 held-out samples during training (a look), to see when the connector begins to use the picture. A
    number: the interval in steps. log: seven looks, each at twice the step of the one before, the last at the end;
        fewer in a short run, where they would take more than a twentieth of its time. off: never. Looks are written to
        looks.jsonl with the standing of each gap (costs, ruled out or open); all looks of a run share one error rate. A
        look changes no weights and does not use the random generators of the training."""

    canary: bool = True
    """Score 32 held-out rows at each save (the canary), so that commands that open the checkpoint can detect changes.
    Hashes of their ids and pixels, digests of their visual tokens, and their losses are saved in the checkpoint, but no
    text and no picture."""

    @field_validator("ablate_every", mode="before")
    @classmethod
    def _off_log_or_steps(cls, value: object) -> object:
        """Accept the two words and numbers of steps; other readers of YAML take a bare `off` for false."""
        value = "off" if value is False else value
        if value in ("off", "log") or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST):
            return value
        raise ValueError(f"expected off, log, or a number of steps from 1 to {MOST}")


class Config(Section):
    """All settings of one run."""

    output_dir: str = "outputs/stage1_align"
    """Checkpoints, logs, the split and results go here."""
    seed: int = Field(42, ge=0, le=MOST_SEED)
    """Seed for the subset, the split, the order, the initial weights, donors and noise; each has its own generator."""
    threads: int | None = Field(None, ge=1, le=MOST_THREADS)
    """CPU threads of PyTorch; null keeps its default. Two can be slower than one."""
    model: ModelConfig = ModelConfig()
    connector: ConnectorConfig = ConnectorConfig()
    prompt: PromptConfig = PromptConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    ablation: AblationSettings = AblationSettings()
    coverage: CoverageSettings = CoverageSettings()

    @model_validator(mode="after")
    def _cross_field(self) -> Config:
        template = self.prompt.template
        if template.count("{human}") + template.count("<image>") != 1:
            raise ValueError(
                "prompt.template: expected exactly one of `{human}` and `<image>`, "
                f"got {template!r}; write for example '{{human}}\\n' or '<image>\\n'"
            )
        if self.prompt.caption_request.count("<image>") != 1:
            raise ValueError(f"prompt.caption_request: expected one `<image>`, got {self.prompt.caption_request!r}")
        block = self.image_block_tokens
        if self.data.max_seq_len <= block:
            parts = {
                "message": f"data.max_seq_len: {self.data.max_seq_len} leaves no room for text after an image block "
                f"of {block} tokens (connector.latents {self.connector.latents})",
                "fix": "raise max_seq_len or lower latents",
            }
            raise PydanticCustomError("image-truncated", "{message}; {fix}", parts)
        if self.coverage.truncated_fail < self.coverage.truncated_warn:
            raise ValueError(
                f"coverage.truncated_fail ({self.coverage.truncated_fail}) is below coverage.truncated_warn "
                f"({self.coverage.truncated_warn}); the threshold of a FAIL must not be below that of a warning"
            )
        for name, beta in zip(("first", "second"), self.train.betas, strict=True):
            if not 0 <= beta < 1:
                raise ValueError(f"train.betas: the {name} must be in [0, 1), got {beta}")
        if self.train.keep_every is not None and self.train.keep_last is None:
            raise ValueError("train.keep_every: without train.keep_last nothing is deleted; set both or neither")
        return self

    @property
    def image_block_tokens(self) -> int:
        """Tokens of one image block: start, Q patches, end; the legacy block adds a space between any two."""
        tokens = self.connector.latents + 2
        return 2 * tokens - 1 if self.prompt.image_block == "legacy" else tokens

    def to_yaml(self) -> str:
        """The whole config, defaults included, as YAML that `load_config` reads back."""
        return write_yaml(self.model_dump(mode="json"))

    def fingerprint(self) -> str:
        """A short hash of every field: equal hashes mean equal settings."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config and apply command-line overrides such as `["--train.lr", "1e-3"]`.

    Raises:
        ValueError: unreadable file, unknown key (with the nearest known one), wrong type or range.
    """
    return apply_overrides(_read_yaml(path), overrides, str(path))


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str], where: str) -> Config:
    """Set `--section.key value` pairs in a plain dictionary and validate it; `where` names its source in errors.

    Raises:
        ValueError: unknown key, wrong type or range, or not a pair.
    """
    for dotted, value in _read_overrides(overrides):
        *sections, key = dotted.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ValueError(f"--{dotted}: `{section}` is not a section of the config")
        node[key] = value
    return parse_config(tree, f"{where} with {' '.join(overrides)}" if overrides else where)


def parse_config(tree: dict[str, Any], where: str) -> Config:
    """Validate a plain dictionary; `where` names its source in errors.

    Raises:
        ValueError: unknown key, wrong type or range.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        # This check covers the whole config and only runs if all fields are valid, so it is the only error.
        parts = next((item["ctx"] for item in error.errors() if item["type"] == "image-truncated"), None)
        if parts is not None:
            raise NamedInputError("image-truncated", f"{where}: {parts['message']}", parts["fix"]) from error
        raise ValueError(_explain(error, where)) from error


def _read_overrides(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """Parse `--section.key value` and `--section.key=value`. Values are YAML, and `-` in a key is read as `_`.

    Raises:
        ValueError: it is not a pair, or the value is not YAML.
    """
    pairs: list[tuple[str, Any]] = []
    queue = list(arguments)
    while queue:
        flag = queue.pop(0)
        if not flag.startswith("--") and "." in flag.partition("=")[0] and "=" in flag:
            flag = f"--{flag}"  # `data.json_file=rows.json`, as other trainers' command lines have it
        if not flag.startswith("--"):
            raise ValueError(f"expected an override such as `--train.lr 1e-3`, got {flag!r}")
        key, equals, value = flag[2:].partition("=")
        if not equals:
            if not queue:
                raise ValueError(f"{flag}: expected a value after it, as in `--train.lr 1e-3`")
            value = queue.pop(0)
        try:
            pairs.append((key.replace("-", "_"), parse_value(value)))
        except (YamlError, ValueError) as error:  # Python reads no numbers of more than 4,300 digits
            raise ValueError(f"{flag}: not a value: {short(value)} ({error})") from error
    return pairs


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = parse_yaml(read_text(locate(str(path)), bounds.CONFIG_BYTES))
    except FileNotFoundError as error:
        near = sorted(p.name for p in path.parent.glob("*.yaml"))
        raise ValueError(f"{path}: no such config file; in {path.parent}: {', '.join(near) or 'no .yaml'}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot read the config ({error.strerror})") from error
    except (YamlError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected a mapping of sections at the top, got {type(tree).__name__}")
    return tree


def _explain(error: ValidationError, where: str) -> str:
    parts = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")  # pydantic's prefix to a validator's message
        if item["type"] in ("extra_forbidden", "invalid_key"):
            parts.append(f"unknown key `{name}`; {_nearest(item['loc'])}")
        elif item["type"] == "model_type":
            parts.append(f"`{name}` is a section of settings, got {short(item['input'])}")
        else:
            parts.append(f"{name}: {message}, got {short(item['input'])}" if name else message)
    return f"{where}: " + "; ".join(parts)


def _nearest(place: tuple[int | str, ...]) -> str:
    """Text about the known keys that an unknown key may stand for."""
    *sections, key = map(str, place)
    known = Config.model_fields
    for name in sections:
        section = known[name].annotation
        assert isinstance(section, type) and issubclass(section, BaseModel)
        known = section.model_fields
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean `{'.'.join([*sections, *near])}`?" if near else f"known: {', '.join(known)}"
