"""Settings of a score and of check 2, validated when they are read."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from eyechart.exits import MOST_THREADS
from eyechart.outside.shown import short
from eyechart.outside.yaml_text import scalar

MOST = 2**31 - 1
"""Largest count in a setting. PyTorch, Arrow and file formats count with 32 or 64 bits; Python does not."""
MOST_SEED = 2**43
"""Largest seed. The order of an epoch is drawn with a million times the seed, which 64 bits have to be enough for."""


class Section(BaseModel):
    """A group of settings that rejects unknown fields; every field has a docstring with its unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: object, info: ValidationInfo) -> object:
        """Refuse booleans and texts for a number: pydantic would read `true` as 1 and the text `010` as 10."""
        wanted = _number_of(cls.model_fields[str(info.field_name)].annotation)
        for item in value if wanted and isinstance(value, (list, tuple)) else [value]:
            if wanted and isinstance(item, (bool, str, bytes)):
                raise ValueError(f"expected {wanted}{' without quotes' if _is_number(item) else ''}")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _texts_can_be_names_of_files(cls, value: object) -> object:
        for text in _texts(value):
            if "\0" in text or text != text.encode("utf-8", "ignore").decode():
                raise ValueError("expected text without NUL characters that can be written as UTF-8")
        return value


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _texts(pair)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _number_of(annotation: Any) -> str | None:
    """Return `an integer` or `a number` if a field holds nothing else, or nothing else but None; otherwise None."""
    if annotation in (int, float):
        return "an integer" if annotation is int else "a number"
    if typing.get_origin(annotation) not in (types.UnionType, typing.Union, tuple):
        return None
    found = {_number_of(part) for part in typing.get_args(annotation) if part is not type(None)}
    return found.pop() if len(found) == 1 else None


def _is_number(value: object) -> bool:
    """Return whether a value is a text that would be a number if it were not a text, such as `3` in quotes."""
    return isinstance(value, str) and isinstance(scalar(value), (int, float)) and not isinstance(scalar(value), bool)


class Hardware(Section):
    """Where a model runs."""

    prefix: ClassVar[str] = "--"
    """Prefix of the names of these settings in messages: `--`, because they are flags of `eyechart`."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation of the frozen models."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to run on; auto uses a GPU if there is one."""


class Placement(Hardware):
    """How frozen models are loaded and run."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32: everything in float32. bf16: frozen parts stored in bfloat16, the connector in float32 under autocast."""


class NamedPlacement(Hardware):
    """How a model that is given by name is loaded and run."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of weights and computation. Quantised weights keep the precision of their file."""
    device_map: str | None = None
    """Spread the weights over devices as transformers and accelerate do, for example `auto`; null uses one device."""
    trust_remote_code: bool = False
    """Allow Python code in the checkpoint's files to run, for its processor and its model."""


class AblationSettings(Section):
    """Check 1."""

    num_samples: int = Field(128, ge=1, le=MOST)
    """Held-out samples to score, from the beginning of the held-out split."""
    batch_size: int = Field(16, ge=1, le=MOST)
    """Samples per forward pass; results do not depend on it."""
    derangements: int = Field(4, ge=1, le=1000)
    """R: number of donors of each sample for `shuffled`."""
    matching_k: int = Field(32, ge=2, le=MOST)
    """K: number of images per caption in matching, its own and K-1 others; by chance, image R@1 is 1/K."""
    words_min_count: int = Field(5, ge=1, le=MOST)
    """Minimum number of occurrences in the scored captions for a word to be listed by its mean gap."""
    mean_token_images: int = Field(512, ge=1, le=MOST)
    """Training images whose visual tokens are averaged for `mean-token`."""
    blind_captions: int = Field(4096, ge=16, le=MOST)
    """Training captions, including repeats, used to train the constant prompt of `blind`; in addition, three trials of
    its learning rate use up to half this number."""
    margin_shuffled: float = Field(0.05, ge=0)
    """Nats per token that the lower bound of gap(shuffled) must exceed."""
    margin_zero: float = Field(0.0, ge=0)
    """Nats per token that the lower bound of gap(zero) must exceed."""
    margin_noise: float = Field(0.0, ge=0)
    """Nats per token that the lower bound of gap(noise) must exceed."""
    gallery: int = Field(100, ge=0, le=MOST)
    """Scored samples shown in report.html, each with a caption that the model writes; evenly spaced in their order."""


class CoverageSettings(Section):
    """Check 2, thresholds in percent of the samples."""

    truncated_warn: float = Field(1.0, ge=0, le=100)
    """If more than this percentage of samples is truncated, there is a warning."""
    truncated_fail: float = Field(2.0, ge=0, le=100)
    """If more than this percentage of samples is truncated, the verdict is FAIL."""
    zero_label_fail: float = Field(0.1, ge=0, le=100)
    """If more than this percentage of samples has no label tokens, the verdict is FAIL."""


class ScoreSettings(Section):
    """How a model that was not trained here is loaded and scored."""

    seed: int = Field(42, ge=0, le=MOST_SEED)
    """Seed for drawing rows, donors and noise, each with a separate generator."""
    threads: int | None = Field(None, ge=1, le=MOST_THREADS)
    """Number of CPU threads of PyTorch; null uses PyTorch's default."""
    model: NamedPlacement = NamedPlacement()
    max_seq_len: int = Field(4096, ge=4, le=MOST)
    """Maximum number of tokens per sequence; it only limits memory, because nothing is trained."""
    max_rejected: float = Field(0.01, ge=0, le=1)
    """Share of unusable rows above which scoring stops; a single unusable row stops it only if this is 0."""
    max_pixels: int = Field(178_956_970, ge=1, le=MOST)
    """Images with more pixels are rejected before they are decoded (default: Pillow's decompression-bomb limit)."""
    image_size: int | None = None
    """Width and height of images in pixels, 8 to 4096; null uses the size to which the model's processor resizes."""
    layout: str = "auto"
    """Layout of the rows: auto, a name (llava, sharegpt, messages, prompt-completion, captions), or the keys of their
    parts, such as `captions,image=picture,caption=title` (docs/data.md)."""
    prompt: str | None = None
    """Human turn, with one `<image>`, used for every row; null uses each row's own human turn."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the chat template, such as `{"enable_thinking": false}`; null passes none."""
    train_data: str | None = None
    """Data file of other rows, whose images are averaged for `mean-token`; null leaves that condition out."""
    distributed: bool = False
    """Share the work among the processes that torchrun started, all of which must then call `score`. If false, each
    call works independently: one rank of a training job can score while the others wait."""
    ablation: AblationSettings = AblationSettings()
    coverage: CoverageSettings = CoverageSettings()


def require_count(name: str, value: int | None, most: int = MOST) -> None:
    """Check an argument that is a number of things; None stands for a default.

    Raises:
        ValueError: it is below 1 or above `most`; one line that begins with `name`.
    """
    if value is not None and not 1 <= value <= most:
        raise ValueError(f"{name}: expected a number from 1 to {most:,}, got {shortened(value)}")


def shortened(number: float) -> str:
    """Return a number in at most 24 characters; Python writes no integers of more than 4,300 digits."""
    return str(number) if abs(number) < 10**23 else f"{number:.3g}" if abs(number) < 10**300 else "a longer number"


def setting(config: Mapping[str, Any], section: str, key: str) -> Any:
    """Return one setting of a recorded config; None if the section or the key is missing."""
    node = config.get(section)
    return node.get(key) if isinstance(node, Mapping) else None


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested sections to one level: `{"train": {"lr": 1}}` becomes `{"train.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def settings_of(given: Mapping[str, Any], flags: Mapping[str, str] | None = None) -> ScoreSettings:
    """Make settings from dotted names such as `ablation.derangements`; all other settings have their defaults.

    Args:
        given: values by name.
        flags: the name of a setting in messages, such as a command-line flag, if it differs.

    Raises:
        ValueError: unknown setting or invalid value; one line.
    """
    tree: dict[str, Any] = {}
    known = sorted(flatten(ScoreSettings().model_dump()))
    for dotted, value in given.items():
        if dotted not in known:
            near = difflib.get_close_matches(dotted, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known settings: {', '.join(known)}"
            raise ValueError(f"{dotted}: no such setting; {hint}")
        *sections, key = dotted.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[key] = value
    try:
        return ScoreSettings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")  # pydantic's prefix to a validator's message
        raise ValueError(f"{(flags or {}).get(where, where)}: {said}, got {short(first['input'])}") from error
