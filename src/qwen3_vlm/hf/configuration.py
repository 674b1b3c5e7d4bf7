"""config.json of an exported folder: describes the connector, its backbones and the prompt.

For each backbone it contains a name (hub id or folder), the width, and a digest of the weights, which is checked when
the backbone is loaded. A folder is written as an absolute path, so that the export can be moved on the same
machine. An export that includes its backbones refers to them as `./vision` and `./llm` and can be moved anywhere.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedConfig

from eyechart.hub import explain_absence
from eyechart.models.device import DTYPES
from eyechart.outside.json_text import read_json
from eyechart.outside.regular import UnreadableError
from qwen3_vlm.build import Inputs, prepare_inputs
from qwen3_vlm.config import Config, parse_config
from qwen3_vlm.data.prompt import TokenIds
from qwen3_vlm.models.files import load_config_only
from qwen3_vlm.shipped import locate

WEIGHTS_FILE = "model.safetensors"
_PRECISIONS = {DTYPES[name]: name for name in ("fp32", "bf16")}
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
# Options that the Auto classes add to every call. They control which code in the folder is run; here none is run.
_OF_AUTO_CLASSES = ("_from_auto", "adapter_kwargs", "code_revision", "trust_remote_code", "use_safetensors")


class ConnectorVlmConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers is untyped
    """Everything except the weights. The sections `connector` and `prompt` are copied from the config of the run."""

    model_type = "qwen3_vlm_connector"

    backbones: dict[str, Any] | None = None
    """`vision` and `llm`, each with `name`, `width` and `digest` (in older exports `fingerprint`, of fewer values)."""
    connector: dict[str, Any] | None = None
    """The section `connector`, as in docs/config.md."""
    prompt: dict[str, Any] | None = None
    """The section `prompt`, as in docs/config.md."""
    attention: str = "sdpa"
    """Attention implementation of both backbones."""
    max_pixels: int = 178_956_970
    """Images with more pixels are rejected before they are decoded."""
    max_seq_len: int = 512
    """Largest number of tokens per sequence in training."""
    image_token_id: int | None = None
    """Id of an image position. It is compared with that of the tokenizer when the model is loaded."""
    eos_token_id: int | None = None
    """Id of EOS, which ends a caption. It is compared with that of the tokenizer when the model is loaded."""
    trained_steps: int = 0
    """Number of batches the connector was trained for; 0 if an older checkpoint does not record it."""

    @classmethod
    def of_run(
        cls, config: Config, ids: TokenIds, backbones: dict[str, dict[str, Any]], steps: int
    ) -> ConnectorVlmConfig:
        """Make the config of a model that a run has trained."""
        for part in backbones.values():
            part["name"] = _absolute(part["name"])
        return cls(
            backbones=backbones,
            connector=config.connector.model_dump(mode="json"),
            prompt=config.prompt.model_dump(mode="json"),
            attention=config.model.attention,
            dtype=DTYPES[config.model.precision],
            max_pixels=config.data.max_pixels,
            max_seq_len=config.data.max_seq_len,
            image_token_id=ids.patch,
            eos_token_id=ids.eos,
            trained_steps=steps,
        )

    def name_of(self, part: str) -> str:
        """Return the hub id or folder of the backbone `vision` or `llm`."""
        assert self.backbones is not None
        return str(self.backbones[part]["name"])

    def run_config(self, where: str, device: str = "cpu") -> Config:
        """Return the part of the run's config that the model needs; `where` names the source in errors.

        Raises:
            ValueError: this is not a config that an export wrote.
        """
        if self.backbones is None or self.connector is None or self.prompt is None:
            raise ValueError(f"{where}: config.json lacks `backbones`, `connector` or `prompt`; export the model again")
        model = {
            "vision": self.name_of("vision"),
            "llm": self.name_of("llm"),
            "attention": self.attention,
            "precision": precision_of(self.dtype),
            "device": device,
        }
        data = {"max_pixels": self.max_pixels, "max_seq_len": self.max_seq_len}
        tree = {"model": model, "connector": self.connector, "prompt": self.prompt, "data": data}
        return parse_config(tree, f"{where}: config.json")


def precision_of(dtype: Any) -> str:
    """Return the value of `model.precision` for a dtype, which is given as a torch.dtype or as its name.

    Raises:
        ValueError: the dtype is neither float32 nor bfloat16.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in _PRECISIONS:
        raise ValueError(f"dtype: expected float32 or bfloat16, got {dtype}")
    return _PRECISIONS[found]


class Export(NamedTuple):
    """The config of an exported folder, after reading it."""

    config: ConnectorVlmConfig
    """The config, with the names under which this machine has the backbones."""
    folder: Path
    recorded: dict[str, Any]
    """The identities of the backbones as written by the export."""


def read_export(name: str, config: Any, options: dict[str, Any]) -> Export:
    """Read an exported folder's config.json, and find its backbones.

    Args:
        name: folder or hub id.
        config: the config that an Auto class has already read, or None.
        options: keyword arguments of `from_pretrained`: `vision`, `llm`, and those for the hub.

    Raises:
        ValueError: the folder or a backbone is missing, it is another kind of model, or an option is unknown.
    """
    moved = {part: options.pop(part, None) for part in ("vision", "llm")}
    hub = {key: options.pop(key) for key in _HUB_OPTIONS if key in options}
    unknown = sorted(options.keys() - set(_OF_AUTO_CLASSES))
    if unknown or options.get("use_safetensors") is False:
        raise ValueError(
            f"from_pretrained: unsupported option `{(unknown or ['use_safetensors=False'])[0]}`; expected vision, llm, "
            "dtype, attn_implementation, device_map (auto, cpu or cuda), or one of the hub's"
        )
    file = _config_file(name, hub)
    if config is None:
        config = ConnectorVlmConfig.from_dict(_decoded(file))
    if not isinstance(config, ConnectorVlmConfig) or not config.backbones:
        raise ValueError(f"{name}: not a model that this package exported; make one with `qwen3-vlm export`")
    recorded = copy.deepcopy(config.backbones)
    for part, identity in config.backbones.items():
        identity["name"] = _absolute(moved[part] or _inside(file.parent, identity["name"]))
        _require(identity, part, name)
    return Export(config, file.parent, recorded)


def _config_file(name: str, hub: dict[str, Any]) -> Path:
    """Return the path of config.json: in the folder or, for a hub id, in the cache, where the other files also are."""
    if Path(name).is_dir() and (Path(name) / "config.json").is_file():
        return Path(name) / "config.json"
    if Path(name).exists() or name.count("/") != 1 or name.startswith((".", "/")):
        raise ValueError(f"{name}: no exported model there (no config.json); make one with `qwen3-vlm export`")
    try:
        return Path(snapshot_download(name, **hub)) / "config.json"
    except OSError as error:
        raise ValueError(explain_absence(name, "from_pretrained", error)) from error


def _decoded(file: Path) -> dict[str, Any]:
    """Return the decoded file, or an empty dictionary if it belongs to another kind of model.

    For such a file, the library would print long warnings.
    """
    try:
        tree = read_json(file)
    except FileNotFoundError as error:
        raise ValueError(f"{file}: no such file; expected what `qwen3-vlm export` writes") from error
    except UnreadableError:
        raise
    except ValueError as error:
        raise ValueError(f"{file}: not valid JSON ({error}); export the model again") from error
    return tree if isinstance(tree, dict) and tree.get("model_type") == ConnectorVlmConfig.model_type else {}


def checked_inputs(config: ConnectorVlmConfig, where: str) -> Inputs:
    """Load the tokenizer, prompts and image preprocessing of the referenced backbones.

    Raises:
        ValueError: the tokenizer is not the one that the connector was trained with.
    """
    inputs = prepare_inputs(config.run_config(where))
    for key, now in (("image_token_id", inputs.prompts.ids.patch), ("eos_token_id", inputs.prompts.ids.eos)):
        then = getattr(config, key)
        if then != now:
            raise ValueError(
                f"{where}: trained with {key} {then}, the tokenizer of {config.name_of('llm')} has {now}; "
                "name the language model it was trained with: from_pretrained(..., llm=NAME)"
            )
    return inputs


def _require(identity: dict[str, Any], part: str, where: str) -> None:
    name = identity["name"]
    try:
        load_config_only(name)
    except (OSError, ValueError) as error:
        known = identity.get("digest", identity.get("fingerprint"))
        absent = f"{where}: needs the backbone {name} (width {identity['width']}, {known}), which "
        fix = f"pass its location, from_pretrained(..., {part}=FOLDER), or export with --include_backbones"
        if Path(name).is_absolute():
            state = "is not a model folder" if Path(name).exists() else "does not exist"
            raise ValueError(f"{absent}{state}; {fix}") from error
        raise ValueError(f"{absent}cannot be loaded: {explain_absence(name, part, error)}") from error


def _inside(folder: Path, name: str) -> str:
    return str(folder / name) if name.startswith("./") else name


def _absolute(name: str) -> str:
    """Return the absolute path of a folder; a hub id is returned unchanged."""
    place = Path(locate(name))
    return str(place.resolve()) if place.exists() else name
