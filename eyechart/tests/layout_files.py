"""The same rows written in every layout that `eyechart.data.reader` reads, by the tools of that layout if installed."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from tiny_rows import COLOURS, SHAPES

QUESTION = "What is this?"


@dataclass(frozen=True)
class Pair:
    """An image file and its caption."""

    name: str
    """Path below the folder `images`."""
    caption: str
    data: bytes
    """The PNG file."""


def make_pairs(count: int, side: int = 24) -> list[Pair]:
    """Images of distinct noise."""
    pairs = []
    for row in range(count):
        noise_HWC = np.random.default_rng(row).integers(0, 256, (side, side, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise_HWC).save(buffer, "png")
        caption = f'a {COLOURS[row % 4]} {SHAPES[row % 3]}, "{row}" größer'
        pairs.append(Pair(f"{row:04d}.png", caption, buffer.getvalue()))
    return pairs


def write_images(folder: Path, pairs: list[Pair]) -> None:
    for pair in pairs:
        path = folder / pair.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pair.data)


def _lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def llava(folder: Path, pairs: list[Pair]) -> Path:
    write_images(folder, pairs)
    turns = [[{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": p.caption}] for p in pairs]
    rows = [{"id": p.name, "image": p.name, "conversations": t} for p, t in zip(pairs, turns, strict=True)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "rows.json"


def llava_gz(folder: Path, pairs: list[Pair]) -> Path:
    path = folder / "rows.json.gz"
    path.write_bytes(gzip.compress(llava(folder, pairs).read_bytes()))
    return path


def sharegpt(folder: Path, pairs: list[Pair]) -> Path:
    """LLaMA-Factory's first form."""
    write_images(folder, pairs)
    rows = [
        {
            "conversations": [
                {"from": "human", "value": f"<image>{QUESTION}"},
                {"from": "gpt", "value": pair.caption},
            ],
            "images": [pair.name],
        }
        for pair in pairs
    ]
    (folder / "rows.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return folder / "rows.json"


def swift(folder: Path, pairs: list[Pair]) -> Path:
    """ms-swift's JSON Lines; LLaMA-Factory's second form is the same."""
    write_images(folder, pairs)
    return _lines(
        folder / "rows.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": f"<image>{QUESTION}"},
                    {"role": "assistant", "content": pair.caption},
                ],
                "images": [str(folder / pair.name)],
            }
            for pair in pairs
        ],
    )


def swift_query(folder: Path, pairs: list[Pair]) -> Path:
    write_images(folder, pairs)
    rows = [{"query": f"<image>{QUESTION}", "response": p.caption, "images": [p.name]} for p in pairs]
    return _lines(folder / "rows.jsonl", rows)


def _messages(pair: Pair, image: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [image, {"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": [{"type": "text", "text": pair.caption}]},
    ]


def trl(folder: Path, pairs: list[Pair]) -> Path:
    write_images(folder, pairs)
    return _lines(
        folder / "rows.jsonl", [{"images": [p.name], "messages": _messages(p, {"type": "image"})} for p in pairs]
    )


def trl_prompt(folder: Path, pairs: list[Pair]) -> Path:
    write_images(folder, pairs)
    rows = [
        {
            "prompt": [{"role": "user", "content": QUESTION}],
            "completion": [{"role": "assistant", "content": pair.caption}],
            "image": pair.name,
        }
        for pair in pairs
    ]
    return _lines(folder / "rows.jsonl", rows)


def openai_path(folder: Path, pairs: list[Pair]) -> Path:
    write_images(folder, pairs)
    return _lines(folder / "rows.jsonl", [{"messages": _messages(p, {"type": "image", "path": p.name})} for p in pairs])


def openai_base64(folder: Path, pairs: list[Pair]) -> Path:
    rows = []
    for pair in pairs:
        uri = f"data:image/png;base64,{base64.b64encode(pair.data).decode()}"
        rows.append({"messages": _messages(pair, {"type": "image_url", "image_url": {"url": uri, "detail": "low"}})})
    return _lines(folder / "rows.jsonl", rows)


def openai_base64_list_gz(folder: Path, pairs: list[Pair]) -> Path:
    rows = json.loads("[" + ",".join(openai_base64(folder, pairs).read_text().splitlines()) + "]")
    path = folder / "rows.json.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(rows, indent=1).replace("/", "\\/").encode()))
    (folder / "rows.jsonl").unlink()
    return path


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXT_PART = pa.struct([("type", pa.string()), ("text", pa.string())])
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.list_(TEXT_PART))])


def _table(pairs: list[Pair]) -> pa.Table:
    """The features of a TRL data set: images as `{bytes, path}`, messages with parts."""
    images = [[{"bytes": pair.data, "path": pair.name}] for pair in pairs]
    messages = [_messages(pair, {"type": "image", "text": None}) for pair in pairs]
    return pa.table(
        {"images": pa.array(images, pa.list_(IMAGE)), "messages": pa.array(messages, pa.list_(MESSAGE))},
    )


def parquet(folder: Path, pairs: list[Pair]) -> Path:
    pyarrow.parquet.write_table(_table(pairs), folder / "rows.parquet", row_group_size=16)
    return folder / "rows.parquet"


def parquet_shards(folder: Path, pairs: list[Pair]) -> Path:
    """A repository of the hub: `data/train-00000-of-00002.parquet`."""
    (folder / "data").mkdir(parents=True)
    for shard, part in enumerate((pairs[:16], pairs[16:])):
        pyarrow.parquet.write_table(_table(part), folder / "data" / f"train-{shard:05d}-of-00002.parquet")
    return folder


def arrow(folder: Path, pairs: list[Pair]) -> Path:
    table = _table(pairs)
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=16)
    return folder / "rows.arrow"


def parquet_captions(folder: Path, pairs: list[Pair]) -> Path:
    """A plain column of bytes."""
    columns = {
        "prompt": [QUESTION] * len(pairs),
        "answer": [pair.caption for pair in pairs],
        "png": pa.array([pair.data for pair in pairs], pa.binary()),
    }
    pyarrow.parquet.write_table(pa.table(columns), folder / "rows.parquet")
    return folder / "rows.parquet"


def saved_to_disk(folder: Path, pairs: list[Pair]) -> Path:
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [Image.open(io.BytesIO(pair.data)) for pair in pairs],
        "prompt": [QUESTION] * len(pairs),
        "completion": [pair.caption for pair in pairs],
    }
    found = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    found.save_to_disk(folder / "saved", num_shards=2)
    return folder / "saved"


def hub_parquet(folder: Path, pairs: list[Pair]) -> Path:
    datasets = pytest.importorskip("datasets")
    path = folder / "rows.parquet"
    datasets.load_from_disk(saved_to_disk(folder, pairs)).to_parquet(path)
    return path


def webdataset(folder: Path, pairs: list[Pair]) -> Path:
    wds = pytest.importorskip("webdataset")
    for shard, part in enumerate((pairs[:16], pairs[16:])):
        with wds.TarWriter(str(folder / f"{shard:03d}.tar")) as tar:
            for pair in part:
                turn = {"query": QUESTION, "response": pair.caption}
                tar.write({"__key__": pair.name[:-4], "png": pair.data, "json": turn})
    return folder


def tar_gz(folder: Path, pairs: list[Pair]) -> Path:
    with tarfile.open(folder / "rows.tar.gz", "w:gz") as tar:
        for pair in pairs:
            turn = json.dumps({"question": QUESTION, "answer": pair.caption}).encode()
            for name, data in ((pair.name, pair.data), (f"{pair.name[:-4]}.json", turn)):
                member = tarfile.TarInfo(f"train/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder / "rows.tar.gz"


def csv_questions(folder: Path, pairs: list[Pair]) -> Path:
    write_images(folder, pairs)
    with (folder / "rows.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "question", "answer"])
        writer.writerows([pair.name, QUESTION, pair.caption] for pair in pairs)
    return folder / "rows.csv"


WITH_QUESTIONS: dict[str, Callable[[Path, list[Pair]], Path]] = {
    "llava": llava,
    "llava, gzipped": llava_gz,
    "sharegpt of LLaMA-Factory": sharegpt,
    "messages of ms-swift": swift,
    "query and response of ms-swift": swift_query,
    "messages of TRL": trl,
    "prompt and completion of TRL": trl_prompt,
    "content parts with paths": openai_path,
    "content parts with base64": openai_base64,
    "content parts with base64, escaped in a gzipped list": openai_base64_list_gz,
    "Parquet": parquet,
    "Parquet shards of the hub": parquet_shards,
    "Parquet with a column of bytes": parquet_captions,
    "Arrow": arrow,
    "save_to_disk": saved_to_disk,
    "to_parquet": hub_parquet,
    "WebDataset": webdataset,
    "WebDataset, gzipped": tar_gz,
    "CSV with questions": csv_questions,
}
"""Writers of rows with a question."""


def csv_captions(folder: Path, pairs: list[Pair]) -> Path:
    write_images(folder, pairs)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file", "caption"], delimiter=";")
        writer.writeheader()
        writer.writerows({"file": pair.name, "caption": pair.caption} for pair in pairs)
    return folder / "captions.csv"


def csv_in_folder(folder: Path, pairs: list[Pair]) -> Path:
    return csv_captions(folder, pairs).parent


def metadata_jsonl(folder: Path, pairs: list[Pair]) -> Path:
    """An imagefolder of `datasets`."""
    write_images(folder, pairs)
    _lines(folder / "metadata.jsonl", [{"file_name": pair.name, "text": pair.caption} for pair in pairs])
    return folder


def metadata_csv(folder: Path, pairs: list[Pair]) -> Path:
    csv_captions(folder, pairs).rename(folder / "metadata.csv")
    return folder


def side_files(folder: Path, pairs: list[Pair]) -> Path:
    write_images(folder / "nested", pairs)
    for pair in pairs:
        (folder / "nested" / pair.name).with_suffix(".txt").write_text(f"{pair.caption}\n", encoding="utf-8")
    return folder


def side_json(folder: Path, pairs: list[Pair]) -> Path:
    write_images(folder, pairs)
    for pair in pairs:
        text = json.dumps({"caption": pair.caption, "width": 24})
        (folder / pair.name).with_suffix(".json").write_text(text, encoding="utf-8")
    return folder


def tar_captions(folder: Path, pairs: list[Pair]) -> Path:
    with tarfile.open(folder / "rows.tar", "w") as tar:
        for pair in pairs:
            for name, data in ((pair.name, pair.data), (f"{pair.name[:-4]}.txt", pair.caption.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder / "rows.tar"


CAPTIONS_ONLY: dict[str, Callable[[Path, list[Pair]], Path]] = {
    "CSV": csv_captions,
    "a folder with a CSV": csv_in_folder,
    "imagefolder with metadata.jsonl": metadata_jsonl,
    "imagefolder with metadata.csv": metadata_csv,
    "side files": side_files,
    "side files in JSON": side_json,
    "WebDataset with texts": tar_captions,
}
"""Writers of rows without a question."""
