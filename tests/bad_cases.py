# ruff: noqa: E501 - a table: one case, one line
"""The list of bad inputs; `bad_inputs.py` runs it, `test_bad_inputs.py` asserts what each says."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import SiglipVisionConfig, SiglipVisionModel

from bad_inputs import CHECKPOINT, HELD_OUT, ROW, Case, Place
from eyechart.data.turns import IMAGE_STRINGS
from qwen3_vlm.train.evidence.record import KEY, sealed
from tiny_rows import llava_row
from tiny_runs import SIDE

Change = Callable[[Place], object]
TRIAL = Path(__file__).parents[1] / "configs" / "stage1_align_trial.yaml"


# --- accepted -------------------------------------------------------------------------------------------------------


def image(mode: str, suffix: str = ".png", **options: Any) -> Change:
    """ROW's image in another mode or format."""

    def make(place: Place) -> None:
        with Image.open(place.image) as opened:
            changed = opened.convert(mode) if mode != "I;16" else None
        sixteen_HW = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 256
        path = place.image.with_suffix(suffix)
        (changed or Image.fromarray(sixteen_HW)).save(path, **options)
        place.change_row({"image": f"images/{path.name}"})

    return make


def rotated(place: Place) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image("RGB", ".jpg", exif=exif)(place)


def wide(place: Place) -> None:
    Image.new("RGB", (20_000, 16), "red").save(place.image)


def rows_as(encode: Callable[[list[Any]], bytes]) -> Change:
    return lambda place: place.data.write_bytes(encode(place.rows()))


def lines(rows: list[Any], end: str = "\n") -> bytes:
    return end.join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def ids(change: Callable[[dict[str, Any], int], object]) -> Change:
    def make(place: Place) -> None:
        rows = place.rows()
        for index, row in enumerate(rows):
            change(row, index)
        place.write_rows(rows)

    return make


def caption(text: str) -> Change:
    return lambda place: place.change_row({"caption": text})


def clean(name: str, make: Change) -> Case:
    return Case(name, "accepted", "audit --json", ("0.00% of 18 samples truncated",), make, 0)


ACCEPTED = [
    clean("image in CMYK", image("CMYK", ".jpg")),
    clean("image with a palette", image("P")),
    clean("grey image", image("L")),
    clean("16-bit grey image", image("I;16")),
    clean("image with alpha (composited on white)", image("RGBA")),
    clean("EXIF rotation (applied)", rotated),
    clean("image 20,000 px wide", wide),
    clean("JSON Lines", rows_as(lines)),
    clean("JSON Lines, CRLF", rows_as(partial(lines, end="\r\n"))),
    clean("JSON, gzipped", rows_as(lambda rows: gzip.compress(json.dumps(rows).encode()))),
    clean("JSON Lines, gzipped", rows_as(lambda rows: gzip.compress(lines(rows)))),
    clean("byte order mark", rows_as(lambda rows: b"\xef\xbb\xbf" + json.dumps(rows).encode())),
    clean("ids as numbers", ids(lambda row, index: row.update(id=index))),
    Case(
        "duplicate ids",
        "accepted",
        "audit --json",
        ("1 ids are used by 18 rows, such as 'same': accepted",),
        ids(lambda row, index: row.update(id="same")),
        0,
    ),
    Case(
        "missing ids",
        "accepted",
        "audit --json",
        ("18 rows without an id: their row number is used",),
        ids(lambda row, index: row.pop("id")),
        0,
    ),
    clean("non-Latin caption", caption("一只红色的圆 круг")),
    clean("emoji in a caption", caption("a red circle 🔴👩‍👩‍👧")),
    Case(
        "caption longer than max_seq_len",
        "accepted",
        "audit --json --coverage.truncated_fail 10",
        ("(1) are truncated", "the end of their caption and its EOS are lost", "raise data.max_seq_len from 64 to"),
        caption("a red circle on a blue ground " * 20),
        0,
    ),
]


def held_out_of_one(place: Place) -> None:
    """A fixed held-out file with one row, for a checkpoint of an older version, which does not record its rows."""
    place.path("one.json").write_text(json.dumps(place.rows()[:1]), encoding="utf-8")
    place.path("run/split.json").unlink()
    place.change_checkpoint(lambda payload: payload.pop(KEY))


def one_held_out_image(place: Place) -> None:
    """Every held-out row shows the same picture, and the checkpoint does not record which one it showed."""
    place.change_checkpoint(lambda payload: payload.pop(KEY))
    for row in HELD_OUT[1:]:
        shutil.copy(place.path(f"data/images/{HELD_OUT[0]:05d}.png"), place.path(f"data/images/{row:05d}.png"))


NO_DONOR = [
    Case(
        "held-out set of one",
        "accepted",
        "ablate --data.eval_json one.json --conditions runbook --json",
        ("INCONCLUSIVE", "1 distinct image,"),
        held_out_of_one,
        3,
    ),
    Case(
        "held-out rows that all show one picture",
        "accepted",
        "ablate --conditions runbook --json",
        ("INCONCLUSIVE", "1 distinct image,"),
        one_held_out_image,
        3,
    ),
    Case(
        "last batch of one (donors come from all held-out rows)",
        "accepted",
        "ablate --conditions runbook --json --ablation.batch_size 3 --ablation.margin_shuffled 9",
        ("gap(shuffled)", "128 samples were requested and 4 scored"),
        code=1,
    ),
]


# --- rejected -------------------------------------------------------------------------------------------------------


def rejected(name: str, make: Change, reason: str = "", command: str = "audit", row: int = ROW) -> Case:
    says = (f"1 of {18 if row == ROW else 4} ", f"row {row}: {reason or name} (", "fix the rows, or raise this limit")
    # One row alone stops nothing, unless none is allowed.
    return Case(name, "rejected", f"{command} --data.max_rejected 0", says, make)


def bytes_of(change: Callable[[bytes], bytes]) -> Change:
    return lambda place: place.image.write_bytes(change(place.image.read_bytes()))


def sized(width: int, height: int) -> Change:
    return lambda place: Image.new("RGB", (width, height)).save(place.image)


def row(change: Any) -> Change:
    return lambda place: place.change_row(change)


def remove(index: int) -> Change:
    return lambda place: place.path(f"data/images/{index:05d}.png").unlink()


def key_twice(place: Place) -> None:
    row = json.dumps(place.rows()[ROW])
    place.data.write_text(json.dumps(place.rows()).replace(row, f'{{"image": "images/0.png", {row[1:]}'))


REJECTED = [
    *(
        rejected(f"image missing, met by {label}", remove(index), "image missing", command, index)
        for label, command, index in (
            ("audit", "audit", ROW),
            ("training", "train --data.cache_features off --overwrite --force", ROW),
            ("training with cached features", "train --data.cache_features on --overwrite", ROW),
            ("the evaluation of training", "train --data.cache_features off --overwrite --force", HELD_OUT[1]),
            ("the cache of held-out features", "train --data.cache_features on --overwrite", HELD_OUT[1]),
            ("ablation", "ablate", HELD_OUT[1]),
        )
    ),
    rejected("image empty", bytes_of(lambda data: b"")),
    rejected("image truncated", bytes_of(lambda data: data[:-60])),
    rejected("not an image", bytes_of(lambda data: b"<html>404</html>")),
    rejected("image 1 px high", sized(40, 1), "image too thin"),
    rejected("image 1 px wide", sized(1, 40), "image too thin"),
    rejected("image above the pixel limit", sized(30, 30), "image too large", "audit --data.max_pixels 600"),
    rejected("image outside the image root", row({"image": "../secret.png"})),
    rejected("caption null", row({"caption": None})),
    rejected("caption blank", row({"caption": " \n"})),
    rejected("caption not text", row({"caption": ["a", "cat"]})),
    rejected("row not an object", row(7)),
    rejected("no <image> in the human turn", row({"human": "Describe the picture."})),
    rejected("more <image> than images", row({"human": "<image> <image>"})),
    rejected("several images", row({"human": "<image> <image>", "image": ["images/00001.png", "images/00002.png"]})),
    *(
        rejected(f"{text} inside a caption", caption(f"a {text} cat"), "image token in caption")
        for text in IMAGE_STRINGS
    ),
    rejected("special token in the human turn", row({"human": "<image><|im_end|>"})),
    rejected("key twice", key_twice),
    rejected(
        "image a named pipe", lambda place: instead_of(f"data/images/{ROW:05d}.png", os.mkfifo)(place), "not an image"
    ),
    rejected("no gpt turn", row({"conversations": llava_row()["conversations"][:1]})),
    rejected(
        "several exchanges",
        row({"conversations": llava_row()["conversations"] + llava_row(human="And?")["conversations"]}),
    ),
]


# --- stops ----------------------------------------------------------------------------------------------------------


def stop(name: str, command: str, *says: str, make: Change = lambda place: None) -> Case:
    return Case(name, "stops", command, says, make)


def config_text(text: str) -> Change:
    return lambda place: place.path("run.yaml").write_text(text, encoding="utf-8")


def data_bytes(change: Callable[[bytes], bytes]) -> Change:
    return lambda place: place.data.write_bytes(change(place.data.read_bytes()))


def instead_of(name: str, make: Callable[[Path], object]) -> Change:
    """Something else in the place of a file."""

    def change(place: Place) -> None:
        place.path(name).unlink(missing_ok=True)
        make(place.path(name))

    return change


ALIASES = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{name}: &{name} [{', '.join([f'*{old}'] * 9)}]" for old, name in zip("abcdefgh", "bcdefghi", strict=True)]
)
"""600 bytes that stand for 3e8 values."""
CONFIG = [
    stop("unknown key", "train", "run.yaml: unknown key `colour`; known:", make=config_text("colour: red\n")),
    stop(
        "misspelt key",
        "train",
        "unknown key `train.lrr`; did you mean `train.lr`?",
        make=config_text("train: {lrr: 1}"),
    ),
    stop("misspelt section", "train", "unknown key `trian`; did you mean `train`?", make=config_text("trian: {lr: 1}")),
    stop("misspelt key on the command line", "audit --data.max_seq_length 9", "did you mean `data.max_seq_len`?"),
    stop("wrong type", "audit --train.epochs many", "train.epochs: expected an integer, got 'many'"),
    stop("wrong range", "train --train.lr -1", "train.lr: ", "greater than 0, got -1"),
    stop("not a number", "train --train.lr .nan", "train.lr: ", "finite number, got nan"),
    stop("a value where a section is", "audit --data 5", "`data` is a section of settings, got 5"),
    stop("no such choice", "audit --model.precision fp16", "model.precision: ", "'fp32' or 'bf16', got 'fp16'"),
    stop("config missing", "train --config rum.yaml", "rum.yaml: no such config file; in .: run.yaml"),
    stop("config not YAML", "train", "run.yaml: not valid YAML", make=config_text("a: [1")),
    stop("config a list", "train", "expected a mapping of sections at the top, got list", make=config_text("- 1")),
    stop(
        "section twice",
        "train",
        "run.yaml: not valid YAML: lines 1 and 3: the key `train` occurs twice; delete one of them",
        make=config_text("train:\n  lr: 0.003\ntrain:\n  epochs: 1\n"),
    ),
    *(
        stop(
            f"{written} for an integer",
            "train",
            f"train.epochs: expected an integer, got {shown}",
            make=config_text(f"train: {{epochs: {written}}}"),
        )
        for written, shown in (("yes", "'yes'"), ("true", "True"), ("010", "'010'"))
    ),
    stop(
        "1:30 for an integer",
        "train",
        "train.epochs: expected an integer, got '1:30'",
        make=config_text("train:\n  epochs: 1:30"),
    ),
    stop("quoted number", "audit --train.epochs '3'", "train.epochs: expected an integer without quotes, got '3'"),
    stop("config with a tag", "train", "line 1: the tag 'tag:yaml.org,2002:int' is not supported", make=config_text("seed: !!int 010")),
    stop("config of 3e8 aliases", "train", "more than 10,000 values, with every alias counted", make=config_text(ALIASES)),
    stop("config nested 20,000 levels deep", "train", "more than 32 levels of nesting", make=config_text("- " * 20_000)),
    stop("config of 1 MB", "train", "run.yaml: cannot read the config (1,000,000 bytes, at most 65,536 are read)", make=config_text("#" * 10**6)),
    stop("config a named pipe", "train", "run.yaml: cannot read the config (expected a regular file, got a named pipe)",
         make=instead_of("run.yaml", os.mkfifo)),
    stop("config a device", "train --config /dev/zero", "/dev/zero: cannot read the config (expected a regular file, got a device)"),
    stop("1e9 epochs", "train --output_dir new --train.epochs 1000000000", "1,000,000,000 checkpoints of ",
         "train for fewer than 1,000,000,000 epochs", make=lambda place: full_disk(place)),
]  # fmt: skip
DATA = [
    stop("data file and image folder missing", "audit", "missing: data.json_file data/data.json; data.image_root data",
         make=lambda place: shutil.rmtree(place.path("data"))),
    stop("data file truncated", "audit", "data/data.json: the JSON ends at byte", "is the file complete?",
         make=data_bytes(lambda data: data[:-500])),
    stop("data file empty", "audit", "data/data.json: the file is empty (0 bytes", make=data_bytes(lambda data: b"")),
    stop("data file with an empty list", "audit", "data/data.json: the list has zero rows", make=data_bytes(lambda data: b"[]")),
    stop("data file not JSON", "audit", "data/data.json: not valid JSON", make=data_bytes(lambda data: b"\x89PNG" + data)),
    stop("one object instead of rows", "audit", "not a list of rows but one object with the keys ['train']",
         make=data_bytes(lambda data: b'{"train": ' + data + b"}")),
    stop("a layout that does not exist", "audit --data.layout lava", "layout: expected auto, one of llava, "),
    stop("columns that are not known", "audit --data.json_file data/rows.csv",
         "data/rows.csv: no layout fits: the keys found are picture, title",
         "such as captions,image=picture,caption=title",
         make=lambda place: place.path("data/rows.csv").write_text("picture,title\na.png,a cat\n")),
    stop("images below another folder", "audit --data.image_root models",
         "data.image_root models: none of the first 16 images is below it, such as images/",
         "they are below data; add --data.image_root data"),
    stop("gzip file cut off", "audit", "data/data.json: broken gzip file", "download it again",
         make=data_bytes(lambda data: gzip.compress(data)[:-30])),
    stop("gzip file that unpacks to 1,000 times its size", "audit", "data/data.json: cannot read the data file (unpacks to more than 100 times its size",
         "unpack it yourself if that is right", make=data_bytes(lambda data: gzip.compress(data + b" " * 80_000_000, 1))),
    stop("data file packed with zstd", "audit", "packed with zstd; files packed with zstd, zip, 7z, bzip2 or xz are not read",
         make=data_bytes(lambda data: b"\x28\xb5\x2f\xfd" + data)),
    stop("data file nested 100,000 levels deep", "audit", "data/data.json: ", make=data_bytes(lambda data: b"[" * 100_000)),
    stop("data file nested 2,000,000 levels deep", "audit", "data/data.json: nested more than 200 levels deep",
         make=data_bytes(lambda data: b"[" * 2_000_000)),
    stop("data file of 2 MB of zeros", "audit", "data/data.json: not a JSON file of rows: it has zero bytes at the beginning",
         make=data_bytes(lambda data: bytes(2_000_000))),
    stop("data file of 20 MB of numbers", "audit", "data/data.json: not a JSON file of rows: 20,000,004 bytes with 0 beginnings of rows",
         make=data_bytes(lambda data: b"[" + b"1," * 10_000_001 + b"1")),
    stop("data file a named pipe", "audit", "data/data.json: cannot read the data file (expected a regular file, got a named pipe)",
         make=instead_of("data/data.json", os.mkfifo)),
    stop("data file a device", "audit --data.json_file /dev/zero", "/dev/zero: cannot read the data file (expected a regular file, got a device)"),
    stop("max_seq_len smaller than the image block", "audit --data.max_seq_len 6", "data.max_seq_len: 6 leaves no room",
         "an image block of 6 tokens", "raise max_seq_len or lower latents"),
    stop("max_seq_len smaller than image block and prompt", "audit --data.max_seq_len 8", "cuts into the image block",
         "set data.max_seq_len to at least"),
    stop("no label token anywhere", "train --data.max_seq_len 12 --overwrite", "so no row keeps a token of its caption", "set data.max_seq_len to at least"),
    stop("other data than the run's split", "ablate", "run/checkpoint_10.pt", make=lambda place: place.change_row({"caption": "else"})),
]  # fmt: skip


class Runs:
    """A pickle that would create a file when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def cut(place: Place) -> None:
    path = place.path(CHECKPOINT)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def saved_with(change: Callable[[dict[str, Any]], object]) -> Change:
    """A checkpoint that was saved with other content, so that its digests fit."""

    def make(place: Place) -> None:
        place.change_checkpoint(lambda payload: (change(payload), payload.update(sealed(payload))))

    return make


other_shape = saved_with(lambda payload: payload["resampler"].update(latents=torch.zeros(5, 16)))
with_nan = saved_with(lambda payload: payload["projector"]["net.0.bias"].fill_(float("nan")))


def one_bit(place: Place) -> None:
    """One bit of a tensor has changed."""
    path = place.path(CHECKPOINT)
    tensor = torch.load(path, weights_only=True)["projector"]["net.0.weight"]
    data = bytearray(path.read_bytes())
    data[data.index(tensor.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(bytes(data))


def other_rows_held_out(place: Place) -> None:
    place.path("one.json").write_text(json.dumps(place.rows()[:1]), encoding="utf-8")


def other_tower(width: int) -> Change:
    """The same folder, another model in it."""

    def make(place: Place) -> None:
        torch.manual_seed(9)
        SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=SIDE,
                patch_size=8,
            )
        ).save_pretrained(place.path("models/vision"))  # fmt: skip

    return make


def packed_checkpoint(place: Place) -> None:
    with zipfile.ZipFile(place.path(CHECKPOINT), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/0", bytes(20_000_000))


def code_in_pickle(place: Place) -> None:
    place.path(CHECKPOINT).write_bytes(pickle.dumps(Runs()))


DAMAGES: list[tuple[str, Change, tuple[str, ...]]] = [
    ("truncated", cut, ("not a readable checkpoint", "perhaps truncated")),
    ("with one changed bit", one_bit, ("the file is damaged: its part", "does not match its checksum")),
    ("of another shape", other_shape, ("`resampler.latents` has shape (5, 16) in the checkpoint, (4, 16) by the config",)),
    ("without a projector", lambda place: place.change_checkpoint(lambda p: p.pop("projector")), ("expected `resampler` and `projector`",)),
    ("with NaN", with_nan, ("`projector.net.0.bias` contains 32 values that are NaN or infinite",)),
    ("for another tower", other_tower(24), ("trained with another model.vision: models/vision (width 24, ", "against models/vision (width 24, ")),
    ("for a tower of another width", other_tower(16), ("models/vision (width 24, ", "against models/vision (width 16, ")),
    ("a pickle that would run code", code_in_pickle, ("rejected because it contains more than tensors",)),
    ("an empty file", lambda place: place.path(CHECKPOINT).write_bytes(b""), ("not a readable checkpoint", "0 bytes")),
]  # fmt: skip
CHECKPOINTS = [
    stop(f"checkpoint {name}", command, CHECKPOINT, *says, make=damage)
    for name, damage, says in DAMAGES
    for command in ("train --resume --train.epochs 2", "ablate", f"caption data/images/{ROW:05d}.png")
] + [
    stop("other held-out rows than in training", "ablate --data.eval_json one.json",
         "data.eval_json is not the file that run/checkpoint_10.pt was drawn from: it was not set", make=other_rows_held_out),
    stop("another draw of the split than in training", "ablate --data.eval_ratio 0.5",
         "its rows were drawn with data.eval_ratio 0.2, got 0.5"),
    stop("checkpoint a named pipe", "ablate", f"{CHECKPOINT}: expected a regular file, got a named pipe", make=instead_of(CHECKPOINT, os.mkfifo)),
    stop("checkpoint a device", "ablate --checkpoint /dev/zero", "/dev/zero: expected a regular file, got a device"),
    stop("checkpoint that unpacks to 1,000 times its size", "ablate", "unpacks to 20,000,000 bytes, more than 2 times its size", "PyTorch did not write this file", make=packed_checkpoint),
    stop("checkpoint with a tensor of 4 TB", "ablate", "a tensor of shape (1000000, 1000000) has 1,000,000,000,000 values, but the file does not store them",
         make=lambda place: place.change_checkpoint(lambda payload: payload["resampler"].update(latents=torch.zeros(1).expand(10**6, 10**6)))),
    stop("results a named pipe", "report run", "run/results.json: cannot read results (expected a regular file, got a named pipe)",
         make=instead_of("run/results.json", os.mkfifo)),
    stop("results of 1 GB", "report run", "run/results.json: cannot read results (1,000,000,000 bytes, at most 67,108,864 are read)",
         make=instead_of("run/results.json", lambda path: (path.touch(), os.truncate(path, 10**9)))),
    stop("results of 5 million values", "report run", "run/results.json: not a results file of schema 2: it has about ",
         make=instead_of("run/results.json", lambda path: path.write_bytes(b"[" + b"1," * 5_000_000 + b"1]"))),
    stop("results nested 100,000 levels deep", "report run", "run/results.json: not a results file of schema 2: it is nested too deeply",
         make=instead_of("run/results.json", lambda path: path.write_bytes(b"[" * 100_000))),
    stop("results with a key twice", "report run", "the key 'verdict' occurs twice in one object",
         make=instead_of("run/results.json", lambda path: path.write_text('{"schema": 2, "verdict": "FAIL", "verdict": "PASS"}'))),
    stop("checkpoint missing", "ablate --checkpoint run/checkpoint_9.pt", "no such checkpoint; in run: checkpoint_5.pt, checkpoint_10.pt"),
    stop("resuming with another config", "train --resume --train.lr 1", "train.lr: 0.003 then, 1.0 now"),
    stop("a run is already there", "train", "output_dir run contains checkpoint_10.pt; continue with --resume"),
    stop("caption without images", "caption", "expected image files, got none"),
    stop("caption of an unreadable image", "caption run.yaml", "run.yaml: not an image"),
    stop("report with an image folder that is none", "report run --image_root pictures",
         "--image_root: expected the folder that the images are in, pictures is not a folder"),
]  # fmt: skip


def gpu(bf16: bool = True) -> Change:
    """A machine with a GPU, as far as the questions before loading go."""

    def make(place: Place) -> None:
        place.patch(torch.cuda, "is_available", lambda: True)
        place.patch(torch.cuda, "is_bf16_supported", lambda: bf16)

    return make


def full_disk(place: Place) -> None:
    place.patch(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 20_000, 20_000))  # type: ignore[attr-defined]


def bare_machine(place: Place) -> None:
    """Nothing but the repository's own config."""
    shutil.rmtree(place.path("data"))
    place.path("configs").mkdir()
    shutil.copy(TRIAL, place.path("configs"))


def backbone(name: str, change: Callable[[bytes], bytes]) -> Change:
    def make(place: Place) -> None:
        path = place.path(f"models/{name}")
        path.write_bytes(change(path.read_bytes()))

    return make


def swapped(place: Place) -> None:
    """A language model where the tower should be; its preprocessor file is there."""
    shutil.copy(place.path("models/llm/config.json"), place.path("models/vision/config.json"))
    shutil.copy(place.path("models/llm/model.safetensors"), place.path("models/vision/model.safetensors"))


MACHINE = [
    stop("no GPU", "train --overwrite --model.device cuda", "model.device: cuda was requested", "set model.device to auto or cpu"),
    stop("bf16 on a GPU that lacks it", "train --overwrite --model.device cuda --model.precision bf16",
         "model.precision: this GPU has no bfloat16; set model.precision to fp32", make=gpu(bf16=False)),
    stop("flash attention on a CPU", "train --overwrite --model.attention flash_attention_2", "needs a GPU, got cpu; set model.attention to sdpa"),
    stop("flash attention in fp32", "train --overwrite --model.device cuda --model.attention flash_attention_2",
         "computes only in 16 bits, but model.precision is fp32; set model.attention to sdpa", make=gpu()),
    stop("flash attention not installed",
         "train --overwrite --model.device cuda --model.attention flash_attention_2 --model.precision bf16",
         "needs the package flash-attn", "set model.attention to sdpa", make=gpu()),
    stop("hub model without a network", "train --overwrite --model.llm Qwen/Qwen3-0.6B-Base",
         "model.llm: Qwen/Qwen3-0.6B-Base is neither a folder here nor in the local hub cache", "hf download Qwen/Qwen3-0.6B-Base"),
    stop("model folder missing", "audit --model.vision ./models/none", "model.vision: the folder ./models/none does not exist"),
    stop("model weights cut off", "train --overwrite", "model.llm: models/llm does not contain a usable Qwen3ForCausalLM",
         make=backbone("llm/model.safetensors", lambda data: data[:-1000])),
    stop("model tokenizer broken", "train --overwrite", "model.llm: models/llm does not contain a usable tokenizer",
         make=backbone("llm/tokenizer.json", lambda data: data[: len(data) // 2])),
    stop("model config broken", "train --overwrite", "model.vision: the folder models/vision is not a model folder",
         make=backbone("vision/config.json", lambda data: data[:40])),
    stop("a language model as the tower", "train --overwrite", "model.vision: expected a model of type siglip_vision_model or siglip, models/vision is 'qwen3'", make=swapped),
    stop("no room for the checkpoints", "train --output_dir new", "2 checkpoints of ", "are free; free some space", "train.keep_last", make=full_disk),
    stop("the real trial on a bare machine", "train --config configs/stage1_align_trial.yaml",
         "missing: data.json_file data/llava_pretrain/blip_laion_cc_sbu_558k.json; data.image_root data/llava_pretrain",
         "hf download --repo-type dataset liuhaotian/LLaVA-Pretrain", "hf download Qwen/Qwen3-8B-Base",
         "hf download google/siglip2-so400m-patch14-384", make=bare_machine),
]  # fmt: skip

CASES = [*ACCEPTED, *NO_DONOR, *REJECTED, *CONFIG, *DATA, *CHECKPOINTS, *MACHINE]
