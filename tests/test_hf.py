"""An exported folder loads with transformers' own calls and writes the same captions as the checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from qwen3_vlm import load
from qwen3_vlm.cli import main
from qwen3_vlm.commands.loaded import Loaded
from qwen3_vlm.hf import ConnectorVlmConfig, ConnectorVlmForConditionalGeneration, ConnectorVlmProcessor
from qwen3_vlm.train.checkpoint import connector_state
from tiny_runs import SIDE, TinyWorld, make_world, same

Model, Processor = ConnectorVlmForConditionalGeneration, ConnectorVlmProcessor
QUESTIONS = ["<image>", "What is this? <image>", "Describe the picture.\n<image>\nIn one sentence."]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def checkpoint(world: TinyWorld) -> Path:
    return world.train("run", connector__vision_ln=True, connector__output_norm=True, train__epochs=1)


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Loaded:
    return load(checkpoint)


@pytest.fixture(scope="module")
def images(world: TinyWorld) -> list[Path]:
    return sorted((world.image_root / "images").glob("*.png"))[:5]


@pytest.fixture(scope="module")
def folder(loaded: Loaded, world: TinyWorld) -> Path:
    loaded.save_pretrained(world.root / "exported")
    return world.root / "exported"


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """An export of its own, to be broken."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def moved(world: TinyWorld) -> Iterator[Path]:
    """The folder that now holds the backbones `llm` and `vision`, which are no longer where they were."""
    away = world.root / "moved"
    away.mkdir()
    for part in ("llm", "vision"):
        (world.root / part).rename(away / part)
    yield away
    for part in ("llm", "vision"):
        (away / part).rename(world.root / part)
    away.rmdir()


def change(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def captions(model: Any, processor: Any, images: Any, **options: Any) -> list[str]:
    written: list[str] = processor.batch_decode(model.generate(**processor(images=images), **options))
    return written


def test_three_lines_of_transformers_write_the_captions_of_the_checkpoint(
    folder: Path, loaded: Loaded, images: list[Path]
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    written = captions(model, processor, images)
    assert written == loaded.caption(images) and len(set(written)) > 1
    assert isinstance(model, Model) and isinstance(processor, Processor)
    assert isinstance(AutoConfig.from_pretrained(folder), ConnectorVlmConfig)


def test_questions_of_different_length_and_opened_images_write_the_same_too(
    folder: Path, loaded: Loaded, images: list[Path]
) -> None:
    model, processor = Model.from_pretrained(folder), Processor.from_pretrained(folder)
    opened = [Image.open(path) for path in images[:3]]
    inputs = processor(images=opened, text=QUESTIONS)
    together = processor.batch_decode(model.generate(**inputs, max_new_tokens=9))
    alone = [loaded.caption([image], q, 9)[0] for image, q in zip(images, QUESTIONS, strict=False)]
    assert together == alone
    assert inputs["attention_mask"].sum(1).tolist() == [
        len(loaded.inputs.prompts.prompt(question).ids_T) for question in QUESTIONS
    ]
    assert captions(model, processor, str(images[0]), max_new_tokens=9) == loaded.caption(images[:1], None, 9)


def test_the_weights_file_holds_the_connector_alone_under_the_checkpoints_names(folder: Path, loaded: Loaded) -> None:
    assert {path.name for path in folder.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    flat = load_file(folder / "model.safetensors")
    parts = connector_state(loaded.vlm.connector)
    assert same(flat, {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()})
    assert {name.split(".")[0] for name in flat} == {"vision_ln", "resampler", "projector"}


def test_loading_leaves_every_weight_as_it_was(folder: Path, loaded: Loaded) -> None:
    model = Model.from_pretrained(folder)
    assert same(dict(model.vlm.state_dict()), dict(loaded.vlm.state_dict()))
    assert not model.training and model.can_generate() and model.config.trained_steps == loaded.step


def test_the_loss_of_forward_is_the_mean_cross_entropy_of_the_labels(
    folder: Path, loaded: Loaded, images: list[Path]
) -> None:
    model, processor = Model.from_pretrained(folder), Processor.from_pretrained(folder)
    inputs = processor(images=images[:1])
    caption = torch.tensor([[9, 10, 11, 12]])
    ids = torch.cat([inputs["input_ids"], caption], dim=1)
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), caption], dim=1)
    out = model(input_ids=ids, pixel_values=inputs["pixel_values"], labels=labels)
    expected = F.cross_entropy(out.logits[0, -5:-1], caption[0])
    assert torch.allclose(out.loss, expected, atol=1e-5)
    greedy = model.generate(**inputs, max_new_tokens=1)
    assert int(out.logits[0, inputs["input_ids"].shape[1] - 1].argmax()) == int(greedy[0, 0])


def test_generate_takes_the_options_of_transformers(folder: Path, images: list[Path]) -> None:
    model, processor = Model.from_pretrained(folder), Processor.from_pretrained(folder)
    inputs = processor(images=images[:2])
    beams = model.generate(**inputs, num_beams=3, num_return_sequences=3, max_new_tokens=4)
    assert beams.shape == (6, 4) and len({tuple(row) for row in beams.tolist()}) > 2
    torch.manual_seed(0)
    sampled = [model.generate(**inputs, do_sample=True, max_new_tokens=8).tolist() for _ in range(2)]
    assert sampled[0] != sampled[1]


def test_decoding_stops_at_eos_and_can_show_it(folder: Path) -> None:
    processor = Processor.from_pretrained(folder)
    ids = [*processor.tokenizer(" a red circle").input_ids, 0, 9, 0]
    assert processor.batch_decode(torch.tensor([ids])) == ["a red circle"]
    assert processor.decode(ids, skip_special_tokens=False).count("<|endoftext|>") == 2


def test_an_export_loads_again_from_its_own_copy(
    folder: Path, loaded: Loaded, images: list[Path], tmp_path: Path
) -> None:
    Model.from_pretrained(folder).save_pretrained(tmp_path / "again")
    Processor.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name
    again = captions(Model.from_pretrained(tmp_path / "again"), Processor.from_pretrained(tmp_path / "again"), images)
    assert again == loaded.caption(images)


def test_backbones_stay_found_from_another_working_directory_and_an_export_can_move(
    copy: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, world: TinyWorld
) -> None:
    monkeypatch.chdir(world.root)
    relative = world.config("run", model__llm="llm", model__vision="./vision", connector__vision_ln=True,
                            connector__output_norm=True)  # fmt: skip
    load(world.root / "run" / "checkpoint_5.pt", relative).save_pretrained("from_relative")
    monkeypatch.chdir(tmp_path)
    names = {
        part["name"]
        for part in json.loads((world.root / "from_relative" / "config.json").read_text())["backbones"].values()
    }
    assert names == {str(world.root / "llm"), str(world.root / "vision")}
    assert captions(Model.from_pretrained(copy), Processor.from_pretrained(copy), images[:1])


def test_an_export_with_its_backbones_stands_alone(
    loaded: Loaded, images: list[Path], tmp_path: Path, moved: Path
) -> None:
    for part in ("llm", "vision"):
        shutil.copytree(moved / part, moved.parent / part)
    loaded.save_pretrained(tmp_path / "here", include_backbones=True)
    for part in ("llm", "vision"):
        shutil.rmtree(moved.parent / part)
    (tmp_path / "here").rename(tmp_path / "there")
    model, processor = Model.from_pretrained(tmp_path / "there"), Processor.from_pretrained(tmp_path / "there")
    assert captions(model, processor, images) == loaded.caption(images)
    with pytest.raises(ValueError, match="there: contains the backbones that would be copied; name another folder"):
        model.save_pretrained(tmp_path / "there", include_backbones=True)


def test_an_export_of_bf16_backbones_writes_the_captions_of_its_checkpoint(
    checkpoint: Path, world: TinyWorld, images: list[Path], tmp_path: Path
) -> None:
    config = world.config("run", model__precision="bf16", connector__vision_ln=True, connector__output_norm=True)
    half = load(checkpoint, config)
    half.save_pretrained(tmp_path / "half", include_backbones=True)
    model = Model.from_pretrained(tmp_path / "half")
    assert captions(model, Processor.from_pretrained(tmp_path / "half"), images) == half.caption(images)
    assert (
        model.vlm.llm.model.dtype == torch.bfloat16
        and model.vlm.connector.projector.net[0].weight.dtype == torch.float32
    )
    assert Model.from_pretrained(tmp_path / "half", dtype=torch.float32).vlm.llm.model.dtype == torch.float32


def test_an_export_on_the_hub_loads_from_its_cache(loaded: Loaded, images: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "models--someone--picture-model"
    loaded.save_pretrained(cache / "snapshots" / ("0" * 40), include_backbones=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    options = {"cache_dir": tmp_path, "local_files_only": True}
    model = AutoModelForImageTextToText.from_pretrained("someone/picture-model", **options)
    processor = AutoProcessor.from_pretrained("someone/picture-model", **options)
    assert captions(model, processor, images) == loaded.caption(images)


@pytest.mark.parametrize("kind", [Model, Processor], ids=["model", "processor"])
def test_a_backbone_that_is_gone_is_named_with_the_cure_and_can_be_pointed_to(
    kind: Any, copy: Path, moved: Path
) -> None:
    gone = moved.parent / "llm"
    with pytest.raises(ValueError) as caught:
        kind.from_pretrained(copy)
    message = str(caught.value)
    assert f"{gone} (width 32, " in message and "does not exist; pass its location" in message and "\n" not in message
    gone.mkdir()
    with pytest.raises(ValueError, match="is not a model folder; pass its location"):
        kind.from_pretrained(copy)
    gone.rmdir()
    with pytest.raises(ValueError, match=r"vision \(width 24, \w{32}\), which does not exist"):
        kind.from_pretrained(copy, llm=moved / "llm")
    assert kind.from_pretrained(copy, vision=moved / "vision", llm=moved / "llm")


def test_another_backbone_is_refused_with_both_identities(copy: Path, world: TinyWorld, tmp_path: Path) -> None:
    other = Path(shutil.copytree(world.root / "vision", tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    expected = rf"trained with another model.vision: {world.root}/vision \(width 24, \w+\) against {other} \(width 24"
    with pytest.raises(ValueError, match=expected):
        Model.from_pretrained(copy, vision=other)


def test_another_tokenizer_is_refused(copy: Path) -> None:
    change(copy, image_token_id=77)
    for kind in (Model, Processor):
        with pytest.raises(ValueError, match=r"image_token_id 77, the tokenizer of .*llm has 2; name the language"):
            kind.from_pretrained(copy)


def test_broken_exports_are_refused_in_one_line(copy: Path, world: TinyWorld, tmp_path: Path) -> None:
    def refuse(folder: Path, message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            Model.from_pretrained(folder, **options)
        assert "\n" not in str(caught.value)

    refuse(
        tmp_path / "nowhere", r"nowhere: no exported model there \(no config.json\); make one with `qwen3-vlm export"
    )
    refuse(world.root / "llm", "not a model that this package exported")
    refuse(copy, "unsupported option `load_in_8bit`; expected vision, llm", load_in_8bit=True)
    refuse(copy, "device_map: expected auto, cpu or cuda, got {'': 0}", device_map={"": 0})
    refuse(copy, "dtype: expected float32 or bfloat16, got torch.float16", dtype=torch.float16)
    refuse(copy, "flash_attention_2, which needs a GPU; use .* or attn_impl", attn_implementation="flash_attention_2")
    weights = copy / "model.safetensors"
    good = weights.read_bytes()
    tensors = {name: value.clone() for name, value in load_file(weights).items()}  # the file is mapped until then
    weights.write_bytes(good[:500])
    refuse(copy, "model.safetensors: not a readable safetensors file")
    save_file({**tensors, "projector.net.2.bias": torch.full((32,), float("nan"))}, weights)
    refuse(copy, "`projector.net.2.bias` contains 32 values that are NaN or infinite")
    save_file({name: value for name, value in tensors.items() if name != "resampler.latents"}, weights)
    refuse(copy, "the checkpoint lacks `resampler.latents`")
    weights.unlink()
    refuse(copy, "model.safetensors: no such file")
    change(copy, connector=None)
    refuse(copy, "config.json lacks `backbones`, `connector` or `prompt`")
    change(copy, connector={"latens": 4})
    refuse(copy, "unknown key `connector.latens`; did you mean `connector.latents`")
    (copy / "config.json").write_text("{")
    refuse(copy, "not valid JSON")


def test_the_processor_refuses_what_it_cannot_use(folder: Path, images: list[Path], tmp_path: Path) -> None:
    processor = Processor.from_pretrained(folder)
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:60])

    def refuse(message: str, *arguments: Any, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            processor(*arguments, **options)

    refuse("missing.png: image missing", tmp_path / "missing.png")
    refuse("broken.png: image", [images[0], broken])
    refuse("image 1: damaged", [images[0], Image.open(broken)])
    refuse("image 0: image too thin", Image.new("RGB", (9, 1)))
    refuse("expected PIL images or paths, got Tensor at 1", [images[0], torch.zeros(3, SIDE, SIDE)])
    refuse("one text per image, got 2 and 1", images[:2], ["<image>"])
    refuse("at least one image and one text per image, got 0 and 0", [])
    refuse("<image> once and no special token, got 0 <image>", images[0], "What is this?")
    refuse("return_tensors: expected 'pt', got 'np'", images[0], return_tensors="np")


def test_the_model_refuses_pixels_that_are_already_normalised(folder: Path, images: list[Path]) -> None:
    inputs = Processor.from_pretrained(folder)(images[0])
    with pytest.raises(ValueError, match=r"pixel_values: expected uint8 .* got torch.float32"):
        Model.from_pretrained(folder).generate(inputs["input_ids"], inputs["pixel_values"].float())


def test_export_is_a_command_that_writes_to_a_new_folder_only(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["export", "--checkpoint", str(checkpoint), "--output", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out == f"written: {out} (config.json, generation_config.json, model.safetensors)\n"
    assert (out / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert main(command) == 2
    assert capsys.readouterr().err == f"error: --output: expected a new or empty folder, {out} is not; name another\n"


def test_a_missing_image_is_bad_input_for_the_caption_command_too(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["caption", str(tmp_path / "no.png"), "--checkpoint", str(checkpoint)]) == 2
    assert f"error: {tmp_path / 'no.png'}: image missing" in capsys.readouterr().err


def test_the_package_itself_does_not_pull_in_the_auto_classes() -> None:
    code = "import sys, qwen3_vlm.commands.loaded; sys.exit('qwen3_vlm.hf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
