"""Faults of what a healthy checkpoint is opened with: its own file, the data, the tokenizer, images, backbones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image, ImageEnhance
from tokenizers import Tokenizer

from eyechart.files import write_atomic
from fault_edits import in_turn
from fault_site import Case, Site, edit_checkpoint, edit_json, edit_tensors, replace_image, swap, take_base


def _bit_rot(site: Site) -> None:
    """One bit of one value of the connector."""
    path = site.take_base()
    tensor = torch.load(path, weights_only=True)["projector"]["net.0.weight"]
    data, wanted = bytearray(path.read_bytes()), tensor.numpy().tobytes()
    data[data.index(wanted) + len(wanted) // 2 + 1] ^= 16
    path.write_bytes(bytes(data))


def _half_precision(site: Site) -> None:
    def convert(payload: dict[str, dict[str, torch.Tensor]]) -> None:
        payload["projector"] = {name: value.bfloat16() for name, value in payload["projector"].items()}

    edit_checkpoint(site.take_base(), convert)


def _rows_reversed(site: Site) -> None:
    rows = json.loads(Path(site.config().data.json_file).read_text(encoding="utf-8"))
    write_atomic(site.folder / "data.json", json.dumps(rows[::-1]))
    site.set(data__json_file=str(site.folder / "data.json"))


def _words_exchanged(site: Site) -> None:
    """The ids of two common words are exchanged in the vocabulary."""
    file = site.own_backbone("llm") / "tokenizer.json"
    one, other = dict.fromkeys(Tokenizer.from_file(str(file)).encode(" red circle", add_special_tokens=False).tokens)

    def exchange(tree: dict[str, dict[str, dict[str, int]]]) -> None:
        vocabulary = tree["model"]["vocab"]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]

    edit_json(file, exchange)


def _images_paler(site: Site) -> None:
    """The image files of held-out rows were saved again with less contrast, under the same names."""
    data = site.config().data
    rows = json.loads(Path(data.json_file).read_text(encoding="utf-8"))
    held_out = set(json.loads((site.base / "split.json").read_text(encoding="utf-8"))["eval"])
    site.take_base()
    source, root = Path(data.image_root).resolve(), site.folder / "images"
    for place, row in enumerate(rows):
        link = root / row["image"]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source / row["image"])
        if place in held_out:
            with Image.open(link) as image:
                replace_image(link, ImageEnhance.Contrast(image.convert("RGB")).enhance(0.7))
    site.set(data__image_root=str(root), data__world="none")


def _tuned_further(site: Site) -> None:
    """The language model was trained a little further after the connector."""
    generator = torch.Generator().manual_seed(0)

    def move(tensors: dict[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            noise = torch.randn(value.shape, generator=generator) * value.float().std() * 0.02
            tensors[name] = (value.float() + noise).to(value.dtype)

    edit_tensors(site.own_backbone("llm") / "model.safetensors", move)


OPENINGS = (
    Case("checkpoint-bit-rot", "file-damaged", "one bit of the projector has flipped", "evaluation", _bit_rot),
    Case(
        "checkpoint-in-half-precision",
        "file-damaged",
        "the projector was converted to bfloat16 and saved again",
        "evaluation",
        _half_precision,
    ),
    Case(
        "rows-reversed",
        "data-changed",
        "the data file has the same rows in reverse order",
        "evaluation",
        in_turn(take_base, _rows_reversed),
    ),
    Case(
        "words-exchanged",
        "tokenizer-changed",
        "two words have each other's id in tokenizer.json",
        "evaluation",
        in_turn(take_base, _words_exchanged),
    ),
    Case(
        "images-paler",
        "pixels-changed",
        "the images of held-out rows were saved again with less contrast",
        "evaluation",
        _images_paler,
    ),
    Case(
        "request-added",
        "prompt-changed",
        "the template has a request before the image, which it did not have in training",
        "evaluation",
        in_turn(take_base, lambda site: site.set(prompt__template="Look: <image>\n")),
    ),
    Case(
        "language-model-tuned-further",
        "backbone-changed",
        "the language model's weights have moved by 2% since the training",
        "evaluation",
        in_turn(take_base, _tuned_further),
    ),
    Case(
        "visual-tokens-larger",
        "visual-tokens-changed",
        "visual tokens are 3% larger than in training",
        "evaluation",
        take_base,
        swap(
            "qwen3_vlm.models.vlm.VLM.visual",
            lambda original: lambda self, features: original(self, features) * 1.03,
        ),
    ),
)
