"""Tower, connector and language model as one transformers model: `from_pretrained`, `generate`, `save_pretrained`.

Dimension suffixes: B batch, T tokens, E width of the language model's embeddings; C H W channels, height, width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from eyechart.files import write_atomic
from eyechart.outside.regular import require_regular
from qwen3_vlm.build import Inputs, build_model
from qwen3_vlm.hf.configuration import WEIGHTS_FILE, ConnectorVlmConfig, checked_inputs, precision_of, read_export
from qwen3_vlm.models.fusion import place
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.checkpoint import connector_state, restore_connector
from qwen3_vlm.train.evidence.identity import refuse_other_backbones

_MAX_NEW_TOKENS = 64
_DEVICES = (None, "auto", "cpu", "cuda")


class ConnectorVlmForConditionalGeneration(PreTrainedModel, GenerationMixin):  # type: ignore[misc]  # transformers is untyped
    """The assembled model. Only the connector's weights are saved; backbones are referred to, or copied on request."""

    config_class = ConnectorVlmConfig
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: ConnectorVlmConfig, vlm: VLM, inputs: Inputs) -> None:
        """Wrap an assembled model, which `from_pretrained` and `qwen3_vlm.load(...)` can make.

        Args:
            config: the config of the model.
            vlm: backbones and connector, with their weights.
            inputs: tokenizer, prompts and image settings of the backbones.
        """
        super().__init__(config)
        self.vlm, self._inputs = vlm, inputs
        self.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=_MAX_NEW_TOKENS,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.eos_token_id,
        )
        self.post_init()

    def init_weights(self) -> None:
        """Do nothing. All weights are loaded, but the library would initialise those that it did not load itself."""

    @classmethod
    def from_pretrained(cls, name: str | Path, *_: Any, **options: Any) -> ConnectorVlmForConditionalGeneration:
        """Load an exported folder, or its copy on the hub.

        Args:
            name: folder or hub id.
            options: `vision` and `llm` give the current location of the backbones. `dtype` (float32 or bfloat16),
                `attn_implementation` and `device_map` (auto uses a GPU if there is one; the default is the CPU) are as
                in transformers. Options for the hub, such as `revision`, are also accepted.

        Raises:
            ValueError: the export or a backbone is missing, a backbone is not the one used in training, or weights do
                not fit. The message is one line.
        """
        given = options.pop("config", None)
        dtype = options.pop("dtype", None) or options.pop("torch_dtype", None)
        attention, device = options.pop("attn_implementation", None), options.pop("device_map", None)
        if device not in _DEVICES:
            raise ValueError(f"device_map: expected auto, cpu or cuda, got {device!r}; move the model with .to(device)")
        export = read_export(str(name), given, options)
        config, weights = export.config, export.folder / WEIGHTS_FILE
        # The Auto classes put these two options into the config that they read, and do not pass them on.
        config.attention = attention or config._attn_implementation or config.attention
        if config.attention == "flash_attention_2" and device in (None, "cpu"):
            raise ValueError(
                f"{name}: its attention is flash_attention_2, which needs a GPU; use "
                "from_pretrained(..., device_map='cuda'), or attn_implementation='sdpa'"
            )
        config.dtype = config.dtype if dtype in (None, "auto") else dtype
        precision_of(config.dtype)
        run = config.run_config(str(name), device or "cpu")
        inputs = checked_inputs(config, str(name))
        vlm = build_model(run, inputs)
        refuse_other_backbones(export.recorded, run.model, vlm, Path(name))
        restore_connector(vlm.connector, _read_weights(weights), weights)
        model = cls(config, vlm, inputs)
        model.eval()
        return model

    def save_pretrained(self, folder: str | Path, include_backbones: bool = False) -> None:
        """Write config.json, generation_config.json and the connector as model.safetensors.

        Args:
            folder: the folder, which is created if it does not exist. Existing copies of the three files are replaced.
            include_backbones: whether to write both backbones to `vision/` and `llm/`, including tokenizer and image
                settings. The folder is then self-contained; otherwise it refers to them by name and digest.

        Raises:
            ValueError: `folder` is a file, or the backbones would be written over themselves.
        """
        path = Path(folder)
        if path.is_file():
            raise ValueError(f"{path}: expected a folder to write to, got a file")
        path.mkdir(parents=True, exist_ok=True)
        config = ConnectorVlmConfig.from_dict(self.config.to_dict())
        config.architectures = [type(self).__name__]
        if include_backbones:
            self._write_backbones(path)
            assert config.backbones is not None
            config.backbones = {part: {**config.backbones[part], "name": f"./{part}"} for part in config.backbones}
        tensors = {
            f"{part}.{key}": value.contiguous()
            for part, state in connector_state(self.vlm.connector).items()
            for key, value in state.items()
        }
        # Do not write in place: a process that has the old file mapped into memory would crash.
        write_atomic(path / WEIGHTS_FILE, save(tensors, metadata={"format": "pt"}))
        self.generation_config.save_pretrained(path)
        config.save_pretrained(path)

    def _write_backbones(self, folder: Path) -> None:
        for part in ("vision", "llm"):
            if (folder / part).resolve() == Path(self.config.name_of(part)).resolve():
                raise ValueError(f"{folder}: contains the backbones that would be copied; name another folder")
        settings, _ = ImageProcessingMixin.get_image_processor_dict(self.config.name_of("vision"))
        self.vlm.tower.model.save_pretrained(folder / "vision")
        write_atomic(folder / "vision" / "preprocessor_config.json", json.dumps(settings, indent=1) + "\n")
        self.vlm.llm.model.save_pretrained(folder / "llm")
        self._inputs.tokenizer.save_pretrained(folder / "llm")

    def get_input_embeddings(self) -> nn.Module:
        """The language model's embedding table."""
        table: nn.Module = self.vlm.llm.model.get_input_embeddings()
        return table

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Compute logits [B,T,vocabulary] and, if there are `labels`, the loss.

        The loss is the mean NLL in nats over labels that are not -100.

        Args:
            input_ids: token ids [B,T] with one image block per row, as the processor makes them.
            pixel_values: uint8 pixels [B,3,H,W], as the processor makes them.
            attention_mask: [B,T], 1 for real tokens.
            labels: token ids [B,T], not shifted.
            options: arguments that are passed to the language model.
        """
        embeds_BTE = self._embed(input_ids, pixel_values)
        return self.vlm.llm.model(inputs_embeds=embeds_BTE, attention_mask=attention_mask, labels=labels, **options)

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> Any:
        """Continue prompts. By default, decoding is greedy with at most 64 new tokens; `options` can change this.

        Args:
            input_ids: token ids [B,T], padded on the left.
            pixel_values: uint8 pixels [B,3,H,W].
            attention_mask: [B,T], 1 for real tokens; without it every token counts as real.
            options: arguments of transformers' `generate` (num_beams, do_sample, streamer, generation_config, ...).

        Returns:
            Only the new tokens [B,N], without the prompt. Rows that end early are filled with EOS.
        """
        if "generation_config" not in options:
            defaults = ("do_sample", "max_new_tokens", "eos_token_id", "pad_token_id")
            options = {key: getattr(self.generation_config, key) for key in defaults} | options
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        # The language model generates with its own cache, so that position ids and masks are the same as in training.
        embeds_BTE = self._embed(input_ids, pixel_values)
        return self.vlm.llm.model.generate(inputs_embeds=embeds_BTE, attention_mask=attention_mask, **options)

    def _embed(self, ids_BT: Tensor, pixels_BCHW: Tensor) -> Tensor:
        if pixels_BCHW.dtype != torch.uint8:
            raise ValueError(
                f"pixel_values: expected uint8 as this model's own processor makes them (the model normalises), got "
                f"{pixels_BCHW.dtype}"
            )
        visual_BQE = self.vlm.visual(self.vlm.tower(pixels_BCHW))
        return place(self.vlm.llm.embed(ids_BT), ids_BT, visual_BQE, self.vlm.patch_id)


def _read_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read a connector's tensors by part.

    Raises:
        ValueError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the connector's weights as `qwen3-vlm export` writes them")
    try:
        require_regular(path)
        flat = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); export the model again") from error
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    return parts
