"""docs/your-model.md runs: each of its blocks, in order; and the example in the seam's docstring scores rows."""

from __future__ import annotations

import inspect
import re
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import eyechart
from eyechart.seam import Scorer
from tiny_rows import LlavaFolder

PAGE = (Path(__file__).parents[1] / "docs" / "your-model.md").read_text(encoding="utf-8")
OURS = re.compile(r"qwen|siglip", flags=re.IGNORECASE)


def test_every_block_of_the_page_runs_and_the_toy_is_seen_to_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    began, names = time.process_time(), dict[str, Any](__name__="docs")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    for code in blocks:
        exec(compile(code, "your-model.md", "exec"), names)
        assert "print(" not in code or capsys.readouterr().out.strip(), f"prints nothing:\n{code}"
    results = names["results"]
    assert results.verdict == "PASS", results.ablation.reasons
    assert results.checkpoint == "colour-reader" and results.config["model"]["vision"] == "mean colour"
    assert results.ablation.words is not None and sum(s.written is not None for s in results.scored) == 24
    assert results.coverage.verdict == "PASS" and results.coverage.samples == 24
    seconds = time.process_time() - began
    assert seconds < 10, "a reader should not have to wait"


def test_a_page_about_a_strangers_model_names_no_model_or_command_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = dict[str, Any](__name__="docs")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    for code in blocks[:2]:
        exec(compile(code, "your-model.md", "exec"), names)
    results = eyechart.score(names["ColourReader"]().eval(), names["rows"])
    assert results.verdict != "PASS", "nothing was trained"
    assert results.checkpoint == "ColourReader"
    eyechart.write_results(results.model_copy(update={"environment": {}}), tmp_path / "out")
    for name in ("report.html", "runbook.md", "results.json"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert OURS.findall(text.replace("deliberately", "")) == [], name


def test_the_example_in_the_docstring_is_short_and_scores_rows(llava: LlavaFolder) -> None:
    docstring = inspect.getdoc(Scorer) or ""
    code = textwrap.dedent(re.search(r"^    import .*?(?=^\S)", docstring, flags=re.MULTILINE | re.DOTALL)[0])  # type: ignore[index]
    assert len(code.strip().splitlines()) < 30
    names: dict[str, Any] = {"__name__": "docs"}
    exec(code, names)
    rows, rejects = eyechart.read_rows(llava.json_file, image_root=llava.image_root)
    assert len(rows) == 6 and rejects == []
    results = eyechart.score(names["Toy"]().eval(), rows, "runbook,no-image")
    assert results.ablation is not None and results.ablation.samples == 6
    assert set(results.ablation.conditions) == {"correct", "shuffled", "zero", "noise", "no-image"}
