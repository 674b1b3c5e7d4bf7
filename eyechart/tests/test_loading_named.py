"""Loading a model by name: processor and template as `AutoProcessor` resolves them, adapters, precision, refusals."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from eyechart.cli import main
from eyechart.exits import InputError, foreign_code
from eyechart.models import loading
from eyechart.models.adapters import read_adapter
from eyechart.models.loading import load_model
from eyechart.models.weights import load_complete
from eyechart.processors.loading import load_processor
from eyechart.processors.pillow import NoPillowError, pillow_processor, torchvision_problem
from saved_models import Saved, batch_of, data, saved, settings
from tiny_architectures import CHATML, TOWER

__all__ = ["data", "saved"]

NO_TORCHVISION = bool(torchvision_problem())


@pytest.fixture
def llava(saved: Saved, tmp_path: Path) -> Path:
    """A copy of the tiny LLaVA, to be changed."""
    return Path(shutil.copytree(saved.folder("llava"), tmp_path / "llava"))


def change(file: Path, **fields: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | fields), encoding="utf-8")


def test_the_class_that_the_files_name_is_the_processor_not_that_of_the_models_type(llava: Path) -> None:
    for name in ("processor_config.json", "preprocessor_config.json"):
        change(llava / name, processor_class="LlavaNextProcessor")
    assert type(load_processor(str(llava))).__name__ == "LlavaNextProcessor"


@pytest.mark.skipif(not NO_TORCHVISION, reason="torchvision works here")
def test_a_processor_that_needs_torchvision_is_refused_with_what_is_wrong_with_torchvision(llava: Path) -> None:
    for name in ("processor_config.json", "preprocessor_config.json"):
        change(llava / name, processor_class="PixtralProcessor")
    if not getattr(getattr(transformers, "PixtralProcessor", None), "is_dummy", False):
        pytest.skip(f"the Pixtral processor of transformers {transformers.__version__} does without torchvision")
    with pytest.raises(NoPillowError, match="PixtralProcessor of .* needs torchvision, and torchvision is not inst"):
        pillow_processor(str(llava), torchvision_problem())


def test_a_template_that_only_the_tokenizer_has_is_used(llava: Path) -> None:
    own = (llava / "chat_template.jinja").read_text(encoding="utf-8")
    (llava / "chat_template.jinja").unlink()
    assert not load_processor(str(llava)).chat_template
    change(llava / "tokenizer_config.json", chat_template=own)
    assert load_processor(str(llava)).chat_template == own


def test_a_folder_without_a_processor_is_refused(llava: Path) -> None:
    for name in ("processor_config.json", "preprocessor_config.json"):
        (llava / name).unlink()
    with pytest.raises(ValueError, match="MODEL: ") as refused:
        load_processor(str(llava))
    assert "\n" not in str(refused.value)


def test_an_image_processor_that_has_only_a_pillow_variant_is_found(llava: Path) -> None:
    pytest.importorskip("transformers.models.video_llava.image_processing_pil_video_llava", reason="a new variant")
    change(llava / "preprocessor_config.json", image_processor_type="VideoLlavaImageProcessor")
    assert type(pillow_processor(str(llava), "").image_processor).__name__ == "VideoLlavaImageProcessor"


def test_a_model_without_sdpa_is_refused_with_the_attention_that_works(tmp_path: Path) -> None:
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    vision = {**TOWER, "image_size": 32, "patch_size": 16}
    config = transformers.GitConfig(vision_config=vision, num_attention_heads=2, **text)
    transformers.GitForCausalLM(config).save_pretrained(tmp_path)
    kind = transformers.AutoModelForImageTextToText
    with pytest.raises(InputError, match="--attention: .* has no sdpa attention in .*; set --attention to eager"):
        load_complete(kind, str(tmp_path), "MODEL", torch.float32, "sdpa")
    assert load_complete(kind, str(tmp_path), "MODEL", torch.float32, "eager") is not None


def test_an_encoder_decoder_model_is_refused(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved.load("llava")
    monkeypatch.setattr(model.scorer.model.config, "is_encoder_decoder", True)
    with pytest.raises(InputError, match="is an encoder-decoder model"):
        loading.adapt("it", model.scorer.model, model.processor, settings())


def test_an_error_of_a_models_own_code_is_one_line_and_an_own_error_stays(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"^it fails \(JSONDecodeError: .*\); check it$"),
        foreign_code("it fails", "check it"),
    ):
        json.loads("{")
    with pytest.raises(ValueError, match="MODEL: the folder .* does not exist"), foreign_code("it fails", "check it"):
        load_model(str(tmp_path / "none"), settings())


def test_a_processor_that_fails_on_a_prompt_ends_in_one_line(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        return json.loads("{")

    monkeypatch.setattr(transformers.LlavaProcessor, "__call__", broken)
    code = main(["score", str(saved.folder("llava")), "--data", str(data / "data.json"), "--image_root", str(data)])
    said = capsys.readouterr().err.strip()
    assert code == 2 and "\n" not in said
    assert "the processor of" in said and "fails on a prompt with one image (JSONDecodeError" in said


def adapter(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_an_adapter_without_peft_is_refused_with_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    folder = adapter(tmp_path / "lora", peft_type="LORA", base_model_name_or_path="base")
    with pytest.raises(InputError, match=r"PEFT is not installed; run pip install 'eyechart\[peft\]'"):
        read_adapter(str(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LORA"}, "names no base model"),
        ({"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "b"}, "PROMPT_TUNING, which adds tokens"),
    ],
)
def test_an_adapter_that_cannot_be_scored_is_refused(
    config: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: SimpleNamespace())
    with pytest.raises(InputError, match=message):
        read_adapter(str(adapter(tmp_path / "lora", **config)))


def test_a_model_folder_is_no_adapter(llava: Path) -> None:
    assert read_adapter(str(llava)) is None


def _lora(base: Path, folder: Path) -> Any:
    peft = pytest.importorskip("peft")
    model = transformers.AutoModelForImageTextToText.from_pretrained(base)
    config = peft.LoraConfig(r=4, target_modules=r".*language_model.*q_proj", init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config)
    wrapped.save_pretrained(folder)
    return wrapped


def test_an_adapter_folder_scores_like_the_model_with_the_adapter_merged(
    saved: Saved, data: Path, tmp_path: Path
) -> None:
    wrapped = _lora(saved.folder("llava"), tmp_path / "lora")
    plain, model = saved.load("llava"), load_model(str(tmp_path / "lora"), settings())
    merged = loading.adapt("merged", wrapped.merge_and_unload().eval(), plain.processor, settings())
    losses = [m.nll(batch_of(m, data), m.encode(batch_of(m, data))).nll_N for m in (plain, model, merged)]
    torch.testing.assert_close(losses[1], losses[2], atol=1e-4, rtol=0)
    assert (losses[0] - losses[1]).abs().max() > 1e-2


def test_an_adapter_whose_weights_are_missing_is_refused(saved: Saved, tmp_path: Path) -> None:
    _lora(saved.folder("llava"), tmp_path / "lora")
    from safetensors.torch import load_file, save_file

    file = tmp_path / "lora" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(dict(list(weights.items())[1:]), file)
    with pytest.raises(InputError, match="lacks 1 of its weights"):
        load_model(str(tmp_path / "lora"), settings())


def test_quantised_weights_are_neither_moved_nor_cast(
    saved: Saved, llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def load(kind: Any, name: str, setting: str, dtype: Any, attention: str, options: Any) -> Any:
        given.update(options, dtype=dtype)
        return saved.load("llava").scorer.model

    monkeypatch.setattr(loading, "load_complete", load)
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_, **__: pytest.fail("the model was moved"))
    change(llava / "config.json", quantization_config={"quant_method": "fp8"})
    monkeypatch.setattr(torch.Tensor, "to", torch.Tensor.to)
    load_model(str(llava), settings())
    assert given["dtype"] is None and given["device_map"] == {"": torch.device("cpu")}
    given.clear()
    monkeypatch.undo()
    monkeypatch.setattr(loading, "load_complete", load)
    load_model(str(saved.folder("llava")), settings())
    assert given["dtype"] is torch.float32 and "device_map" not in given


def test_half_precision_gives_nearly_the_losses_of_full_precision(saved: Saved, data: Path) -> None:
    full, half = saved.load("llava"), load_model(str(saved.folder("llava")), settings(model__precision="fp16"))
    assert half.scorer.model.dtype == torch.float16
    losses = [m.nll(batch_of(m, data), m.encode(batch_of(m, data))).nll_N for m in (full, half)]
    assert 0 < (losses[0] - losses[1]).abs().max() < 0.1


def test_a_checkpoint_with_code_of_its_own_is_refused_without_the_flag(llava: Path) -> None:
    change(llava / "config.json", model_type="mine", auto_map={"AutoConfig": "configuration_mine.MineConfig"})
    (llava / "configuration_mine.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    with pytest.raises(InputError, match="needs Python code from its own files.*--trust-remote-code"):
        load_model(str(llava), settings())


@pytest.mark.parametrize("text", ["{", "[1]", "thinking=no"])
def test_template_variables_have_to_be_a_json_object(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "m", "--data", "rows.json", "--chat-template-kwargs", text]) == 2
    assert "--chat-template-kwargs: expected a JSON object" in capsys.readouterr().err


def test_template_variables_reach_the_template(llava: Path) -> None:
    ending = "assistant\n{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}{% endif %}"
    chat = CHATML.replace("{IMAGE}", "<image>").replace("assistant\n{% endif %}", ending)
    (llava / "chat_template.jinja").write_text(chat, encoding="utf-8")
    with pytest.raises(ValueError, match="template-unstable.*--chat-template-kwargs"):
        load_model(str(llava), settings())
    model = load_model(str(llava), settings(chat_template_kwargs={"enable_thinking": False}))
    assert model.prompts.text("<image>\nWhat?").endswith("assistant\n")


def test_the_official_way_in_is_used_where_a_forward_pass_has_it(saved: Saved) -> None:
    import inspect

    model = saved.load("llava")
    official = "mm_encoder_outputs" in inspect.signature(model.scorer.model.forward).parameters
    assert model.scorer.doors == (("encoder-outputs", "image-features") if official else ("image-features",))


def test_a_part_without_sdpa_is_refused_with_the_attention_that_works(
    llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the tower of Gemma 3n on transformers 5.6, whose own class has it."""

    class Kind(transformers.AutoModelForImageTextToText):
        @classmethod
        def from_pretrained(cls, *args: Any, **options: Any) -> Any:
            raise ValueError("a part does not support this attention")

    with pytest.raises(ValueError, match="does not contain a usable"):
        load_complete(Kind, str(llava), "MODEL", torch.float32, "sdpa")
    monkeypatch.setattr(transformers.CLIPVisionModel, "_supports_sdpa", False)
    with pytest.raises(InputError, match="has no sdpa attention in .*; set --attention to eager"):
        load_complete(Kind, str(llava), "MODEL", torch.float32, "sdpa")
    with pytest.raises(ValueError, match="does not contain a usable"):
        load_complete(Kind, str(llava), "MODEL", torch.float32, "eager")
