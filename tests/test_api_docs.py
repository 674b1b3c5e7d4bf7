"""docs/api.md runs: each of its blocks, in order, on a tiny checkpoint under the names that the page uses."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import qwen3_vlm
from qwen3_vlm.cli import main
from tiny_runs import make_world

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def lay_out(root: Path) -> None:
    """A working directory with the files that the page names."""
    world = make_world(root)
    (root / "assets" / "tiny").mkdir(parents=True)
    for part in ("llm", "vision"):
        (root / part).rename(root / "assets" / "tiny" / part)
    backbones = {part: f"assets/tiny/{part}" for part in ("llm", "vision")}
    tree: dict[str, Any] = world.tree("outputs/stage1_align_tiny", model={**backbones, "device": "cpu"})
    tree["output_dir"] = "outputs/stage1_align_tiny"
    (root / "configs").mkdir()
    (root / "configs" / "stage1_align_tiny.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    shutil.copy(root / "data" / "images" / "00000.png", root / "picture.png")
    assert main(["train", "--config", "configs/stage1_align_tiny.yaml"]) == 0
    run = root / "outputs" / "stage1_align_tiny"
    (run / "checkpoint_10.pt").rename(run / "checkpoint_3675.pt")


def test_every_block_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    capsys.readouterr()
    names: dict[str, Any] = {"__name__": "docs"}
    blocks = BLOCK.findall(PAGE)
    assert len(blocks) >= 10
    for language, code in blocks:
        if language == "python":
            exec(compile(code, "docs/api.md", "exec"), names)
            assert "print(" not in code or capsys.readouterr().out.strip(), f"prints nothing:\n{code}"
        else:
            program, *arguments = shlex.split(code)
            assert (language, program) == ("bash", "qwen3-vlm")
            assert main(arguments) == 0, capsys.readouterr().err
    assert (tmp_path / "standalone" / "llm" / "tokenizer.json").is_file()


def test_the_page_names_every_call_with_its_parameters() -> None:
    shown = dict(re.findall(r"^\| `(\w+)\(([^)]*)\)` \|", PAGE, flags=re.MULTILINE))
    real = {name: ", ".join(inspect.signature(getattr(qwen3_vlm, name)).parameters) for name in qwen3_vlm.__all__}
    assert shown == real
