"""What users' scorers did to the seam and to `eyechart.score`; each once passed silently or ended in a traceback."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import eyechart
from eyechart.cli import main
from eyechart.faults.experiments_on_losses import LossRoute
from eyechart.faults.loss_findings import diagnose_text
from eyechart.scoring.batching import collate
from eyechart.seam import Batch, Description, TokenNLL, VisualTokens
from test_contract import Stranger, rows, score

__all__ = ["rows"]


class WidthMatters(Stranger):
    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        found = super().nll(batch, visual)
        return TokenNLL(found.nll_N * (1 + 0.1 * batch.ids_BT.shape[1]), found.counts_B)


def test_losses_that_depend_on_the_padding_are_refused(rows: list[eyechart.Row]) -> None:
    with pytest.raises(ValueError, match=r"Scorer\.nll: row \d+ has other losses in a batch than alone"):
        score(WidthMatters(), rows)


def test_a_model_in_training_mode_is_refused_before_anything_runs(rows: list[eyechart.Row]) -> None:
    scorer = Stranger()
    scorer.norm = torch.nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="the model is in training mode"):
        score(scorer.train(), rows)
    assert int(scorer.norm.num_batches_tracked) == 0


class Untupled(Stranger):
    def encode(self, batch: Batch) -> Any:
        return VisualTokens(super().encode(batch).layers[0])  # type: ignore[arg-type]


class Listed(Stranger):
    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        found = super().nll(batch, visual)
        return TokenNLL(found.nll_N, found.counts_B.tolist())  # type: ignore[arg-type]


class LabelsOnTheImage(Stranger):
    def sample(self, row: eyechart.Row) -> Any:
        sample = super().sample(row)
        labels_T = sample.ids_T.copy()
        labels_T[0] = -100
        return replace(sample, labels_T=labels_T)


class Describing(Stranger):
    said: Any = None

    def describe(self) -> Any:
        return self.said


class NoText(Describing):
    said = Description("toy", parts={"dtype": torch.float32})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (Untupled, r"Scorer\.encode: expected VisualTokens of a tuple of layers, got Tensor"),
        (Listed, r"Scorer\.nll: expected TokenNLL of two tensors, got TokenNLL"),
        (LabelsOnTheImage, "expected no label on the image block"),
        (Describing, r"Scorer\.describe: expected a Description, got NoneType"),
        (NoText, r"Scorer\.describe: expected a string"),
    ],
)
def test_a_beginners_mistake_is_named(scorer: type[Stranger], message: str, rows: list[eyechart.Row]) -> None:
    with pytest.raises(ValueError, match=message):
        score(scorer(), rows)


class Reversed(Stranger):
    def self_test(self, batch: Batch) -> None:
        """A method of its own, of that name by chance."""

    def encode(self, batch: Batch) -> VisualTokens:
        return super().encode(batch).map(lambda layer: layer.flip(0))


def test_no_method_of_a_scorer_switches_the_contract_off(rows: list[eyechart.Row]) -> None:
    with pytest.raises(ValueError, match="other visual tokens in a batch than alone"):
        score(Reversed(), rows)


def test_rows_may_come_from_a_generator(rows: list[eyechart.Row]) -> None:
    assert score(Stranger(), (row for row in rows)).ablation == score(Stranger(), rows).ablation


def test_pictures_of_two_folders_are_recorded_by_their_whole_path(rows: list[eyechart.Row], tmp_path: Path) -> None:
    for row in rows:
        Image.new("RGB", (16, 16), (row.row, 200, 0)).save(tmp_path / row.image)
    mixed = [replace(row, image_root=str(tmp_path)) if row.row % 2 else row for row in rows]
    results = score(Stranger(), mixed)
    assert {sample.image for sample in results.scored} == {str(row.path) for row in mixed}
    assert "image_root" not in results.config["data"] or not results.config["data"]["image_root"]


def test_one_rank_of_somebodys_job_scores_alone(rows: list[eyechart.Row], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert score(Stranger(), rows).ablation is not None
    assert not torch.distributed.is_initialized()


class Saturated(Stranger):
    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        found = super().nll(batch, visual)
        parts = found.per_sample()
        for nll_T in parts:
            nll_T[len(nll_T) // 2 + 1] = 0  # certain, whatever precedes it: the loss after the middle one
        return TokenNLL(torch.cat(parts), found.counts_B)


class NotANumber(Stranger):
    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        found = super().nll(batch, visual)
        return TokenNLL(found.nll_N * torch.nan, found.counts_B)


@pytest.mark.parametrize("scorer", [Saturated, NotANumber])
def test_losses_that_cannot_move_accuse_nobody_of_a_shift(scorer: type[Stranger], rows: list[eyechart.Row]) -> None:
    model = scorer()
    batch = model.batch(rows[:2])
    with torch.no_grad():
        found = LossRoute(model, batch.text(), model.encode(batch)).text()
    assert diagnose_text(found) == []


def test_a_file_where_a_folder_should_be_is_no_bug_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from eyechart.files import write_atomic
    from eyechart.results import to_json
    from report_data import make_results

    write_atomic(tmp_path / "results.json", to_json(make_results()))
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "file" / "page.html")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "eyechart", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("eyechart ")
    assert collate([]).samples == ()
