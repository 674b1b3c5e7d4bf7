"""`diagnose` on real runs of the tiny world: silent on a healthy one, and first to name what was done to it."""

from __future__ import annotations

from pathlib import Path

import pytest

import seeds
from eyechart.results import Finding
from qwen3_vlm.commands.diagnosis import diagnose
from qwen3_vlm.train.checkpoint import load_checkpoint, save_checkpoint, stored_config
from qwen3_vlm.train.evidence.record import sealed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeds.healthy(tmp_path_factory.mktemp("healthy"), 3)


def findings(checkpoint: Path) -> list[Finding]:
    return diagnose(stored_config(checkpoint), checkpoint, rows=16).findings


def test_a_short_healthy_run_shows_notes_at_most(healthy: Path) -> None:
    assert {f.severity for f in findings(healthy)} <= {"note"}


def test_a_resampler_that_no_longer_attends_is_collapsed(healthy: Path) -> None:
    payload = load_checkpoint(healthy)
    payload["resampler"]["layers.0.attn.out_proj.weight"].zero_()
    damaged = healthy.parent / "checkpoint_1.pt"
    save_checkpoint(damaged, sealed(payload))
    first = findings(damaged)[0]
    assert (first.code, first.severity, first.evidence["stage"]) == ("collapsed", "error", "resampler")
