"""What the assembler sets and refuses before a model is loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eyechart.data import dataset
from qwen3_vlm.build import prepare_data
from tiny_runs import TinyWorld, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(
    ("workers", "before", "after"), [(0, None, None), (2, None, "false"), (2, "true", "true")], ids=str
)
def test_forked_readers_find_the_tokenizer_s_threads_decided(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch, workers: int, before: str | None, after: str | None
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", before or "")
    if before is None:
        monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    prepare_data(world.config("x", data__workers=workers))
    assert os.environ.get("TOKENIZERS_PARALLELISM") == after


@pytest.mark.parametrize(
    ("setting", "folder", "wanted"),
    [("model.llm", "vision", "qwen3"), ("model.vision", "llm", "siglip_vision_model or siglip")],
)
def test_a_backbone_of_another_kind_is_named(world: TinyWorld, setting: str, folder: str, wanted: str) -> None:
    path: Path = world.root / folder
    with pytest.raises(ValueError, match=rf"{setting}: expected a model of type {wanted}, {path} is '"):
        prepare_data(world.config("x", **{setting.replace(".", "__"): str(path)}))


def test_rejects_below_the_limit_are_said_once_by_the_first_rank(
    world: TinyWorld, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = world.image_root / "data.json"
    text = data.read_text(encoding="utf-8")
    row = prepare_data(world.config("x")).split.train[0]
    data.write_text(text.replace(f'"images/{row:05d}.png"', "7"), encoding="utf-8")
    config = world.config("x", data__max_rejected=0.1)
    try:
        monkeypatch.setenv("RANK", "1")
        prepare_data(config)
        assert capsys.readouterr().err == ""
        monkeypatch.setenv("RANK", "0")
        dataset._say_once.cache_clear()
        prepare_data(config)
        prepare_data(config)
    finally:
        data.write_text(text, encoding="utf-8")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 1 of 18 training rows are unusable (5.56%): image not a path 1. For example row ")
    assert line.endswith("; they are left out and not replaced by other rows")
