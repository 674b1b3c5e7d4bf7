"""Stage 1 on other layouts than LLaVA's: the same rows give the same run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from layout_files import IMAGE, Pair, csv_captions, make_pairs, tar_captions, write_images
from qwen3_vlm.build import prepare_data
from qwen3_vlm.cli import main
from qwen3_vlm.commands.audit import audit
from qwen3_vlm.config import Config, load_config, parse_config
from qwen3_vlm.data.splits import draw_split
from qwen3_vlm.train.stage1 import train
from tiny_runs import ROWS, TinyWorld, log_of, make_world, same, weights_of

PAIRS = [
    Pair(pair.name, f"a red circle{' on a blue ground' * (n % 3)}", pair.data)
    for n, pair in enumerate(make_pairs(ROWS))
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("world"))


def as_llava(folder: Path, pairs: list[Pair]) -> Path:
    write_images(folder, pairs)
    turns = [[{"from": "human", "value": "<image>"}, {"from": "gpt", "value": pair.caption}] for pair in pairs]
    rows = [{"image": pair.name, "conversations": said} for pair, said in zip(pairs, turns, strict=True)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "rows.json"


def as_parquet(folder: Path, pairs: list[Pair]) -> Path:
    images = pa.array([{"bytes": pair.data, "path": pair.name} for pair in pairs], IMAGE)
    table = pa.table({"image": images, "caption": [pair.caption for pair in pairs]})
    pyarrow.parquet.write_table(table, folder / "rows.parquet", row_group_size=4)
    return folder / "rows.parquet"


def config_of(world: TinyWorld, write: Callable[[Path, list[Pair]], Path], name: str, workers: int = 0) -> Config:
    """The config of a run on the rows as `write` writes them, with no image root."""
    folder = world.root / f"rows-{name}"
    folder.mkdir()
    tree = world.tree(name)
    tree["data"] = {"json_file": str(write(folder, PAIRS)), "eval_ratio": 0.2, "max_seq_len": 64, "workers": workers}
    return parse_config(tree, "test")


def test_the_same_rows_in_other_layouts_give_the_same_run_bit_for_bit(world: TinyWorld) -> None:
    def trained(config: Config) -> dict[str, Any]:
        """The last checkpoint without the identity of the data file, and without the seal that covers it."""
        found = {key: value for key, value in weights_of(train(config)).items() if key != "data"}
        kept = {key: value for key, value in found["evidence"].items() if key not in ("split", "seal")}
        return found | {"evidence": kept}

    weights = trained(config_of(world, as_llava, "llava"))
    for name, write, workers in (
        ("csv", csv_captions, 0),
        ("tar", tar_captions, 0),
        ("parquet", as_parquet, 2),
    ):
        found = trained(config_of(world, write, name, workers))
        assert log_of(world.root / name) == log_of(world.root / "llava") and same(found, weights), name


def test_training_rows_with_a_held_out_picture_leave_training_if_images_are_inside_a_file(world: TinyWorld) -> None:
    split = draw_split(ROWS, None, 0.2, 42)
    held_out, trained = split.eval[0], split.train[2]

    def repeated(folder: Path, pairs: list[Pair]) -> Path:
        copied = [replace(p, data=pairs[held_out].data) if n == trained else p for n, p in enumerate(pairs)]
        return as_parquet(folder, copied)

    assert prepare_data(config_of(world, as_parquet, "distinct")).split.repeats == ()
    assert prepare_data(config_of(world, repeated, "repeated")).split.repeats == ((trained, held_out),)


def test_check_2_counts_rows_whose_images_are_inside_a_file(world: TinyWorld) -> None:
    config = config_of(world, tar_captions, "audited")
    coverage = audit(config)
    assert (coverage.samples, coverage.rejected) == (len(draw_split(ROWS, None, 0.2, 42).train), {})


def test_a_row_with_several_exchanges_is_a_reject_with_its_reason(world: TinyWorld) -> None:
    def longer(folder: Path, pairs: list[Pair]) -> Path:
        write_images(folder, pairs)
        rows = [
            {
                "messages": [{"role": role, "content": text} for role, text in said * (1 + (n == 0))],
                "images": [pair.name] * (1 + (n == 0)),
            }
            for n, pair in enumerate(pairs)
            for said in [[("user", "<image>"), ("assistant", pair.caption)]]
        ]
        (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return folder / "rows.jsonl"

    rejects = prepare_data(config_of(world, longer, "longer")).rejects
    assert [(r.row, r.reason) for side in rejects.values() for r in side] == [(0, "several exchanges")]


def test_the_image_root_is_the_folder_of_the_data_unless_it_is_set(tmp_path: Path) -> None:
    def root(**data: Any) -> str:
        return parse_config({"data": data}, "test").data.image_root

    assert root(json_file="somewhere/rows.csv") == "somewhere"
    assert root(json_file=str(tmp_path)) == str(tmp_path)
    assert root(json_file="somewhere/rows.csv", image_root="images") == "images"
    assert root() == "data/llava_pretrain"


def test_own_rows_with_a_worlds_image_root_stop_before_the_world_is_drawn(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    csv_captions(tmp_path, PAIRS)
    tiny = world.config_file("of-a-world", data={"world": "scenes", "image_root": "data/scenes"})
    where = ["train", "--config", str(tiny), "data.json_file=captions.csv"]
    assert main(where) == 2
    line = capsys.readouterr().err
    assert "none of the first 16 images is below it, such as 0" in line
    assert line.endswith("they are below .; add --data.image_root . --data.world none\n")
    assert not (tmp_path / "data").exists()
    more = ["--data.image_root", ".", "--data.world", "none", "--data.eval_ratio", "0.2"]
    assert main([*where, *more, "--output_dir", "out"]) == 0
    assert (tmp_path / "out" / "split.json").is_file()


def test_columns_of_other_names_are_named_in_one_flag(world: TinyWorld, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(world, csv_captions, "titles")
    file = Path(config.data.json_file)
    file.write_text(file.read_text(encoding="utf-8").replace("file;caption", "picture;title", 1), encoding="utf-8")
    path = world.root / "titles.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert main(["audit", "--config", str(path)]) == 2
    line = capsys.readouterr().err
    assert line.endswith("such as captions,image=picture,caption=title\n")
    assert main(["audit", "--config", str(path), "--data.layout", line.split()[-1]]) == 0
    assert load_config(path, ["--data.layout", line.split()[-1]]).data.layout == "captions,image=picture,caption=title"
