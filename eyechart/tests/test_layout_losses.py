"""The layout of the rows does not change what a model is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyechart.api.score import score
from eyechart.reporting.gallery import make_gallery
from eyechart.reporting.terminal import absent_images
from layout_files import WITH_QUESTIONS, make_pairs
from saved_models import Saved, saved, settings

__all__ = ["saved"]

PAIRS = make_pairs(40)


def test_the_same_40_rows_in_each_layout_have_the_same_losses(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    losses = {}
    layouts = ("llava", "Parquet", "content parts with base64")
    model = saved.load("llava")
    for number, layout in enumerate(layouts):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = WITH_QUESTIONS[layout](folder, PAIRS)
        how = settings(ablation__batch_size=40)
        results = score(model, path, "correct,shuffled", 40, folder, how)
        assert absent_images(results) == ""
        (card,) = make_gallery(results.scored[:1], 1, folder, 10**6).parts[0].cards
        assert card.thumbnail.uri.startswith("data:image/"), layout
        assert results.ablation is not None and results.coverage is not None
        losses[layout] = [(s.row, s.label_tokens, s.losses) for s in sorted(results.scored, key=lambda s: s.row)]
    assert len(losses["llava"]) == 40 and {*losses["llava"][0][2]} >= {"correct", "shuffled"}
    assert all(found == losses["llava"] for found in losses.values())
