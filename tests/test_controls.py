"""End to end on the tiny world: healthy runs pass, and connectors that do not see fail, whatever their loss."""

from __future__ import annotations

from pathlib import Path

import pytest

import seeds
from eyechart.results import read
from qwen3_vlm import ablate
from qwen3_vlm.eval_ablation import main as eval_ablation

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def healthy_42(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeds.healthy(tmp_path_factory.mktemp("healthy"), 42)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_shortened_healthy_run_passes(seed: int, tmp_path: Path) -> None:
    assert ablate(seeds.healthy(tmp_path, seed), conditions="runbook").verdict == "PASS"


def test_the_command_passes_a_healthy_run_and_writes_its_results(healthy_42: Path) -> None:
    assert eval_ablation(["--checkpoint", str(healthy_42), "--num_samples", "128"]) == 0
    results = read(healthy_42.parent / "results.json")
    assert results.verdict == "PASS" and results.ablation is not None
    assert (results.ablation.samples, results.ablation.requested) == (100, 128)
    assert "# " in (healthy_42.parent / "runbook.md").read_text(encoding="utf-8")


def test_results_do_not_depend_on_the_batch_size(healthy_42: Path) -> None:
    config = seeds.short_config(healthy_42.parent, 42)
    losses = []
    for size in (1, 4, 32):
        ablation = config.ablation.model_copy(update={"batch_size": size})
        sized = config.model_copy(update={"ablation": ablation})
        results = ablate(healthy_42, sized, num_samples=33, conditions="runbook")
        assert results.ablation is not None
        losses.append([c.loss for c in results.ablation.conditions.values()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] == pytest.approx(losses[2], abs=1e-5)


def test_an_untrained_connector_fails_with_exit_code_1(tmp_path: Path) -> None:
    assert eval_ablation(["--checkpoint", str(seeds.untrained(tmp_path)), "--conditions", "runbook"]) == 1


def test_a_constant_connector_fails_on_shuffled_alone_with_a_gap_of_exactly_zero(
    healthy_42: Path, tmp_path: Path
) -> None:
    results = ablate(seeds.constant(tmp_path, healthy_42), conditions="runbook")
    assert results.verdict == "FAIL" and results.ablation is not None
    assert results.ablation.conditions["shuffled"].gap == 0.0


def test_a_connector_trained_on_rolled_pairs_fails(tmp_path: Path) -> None:
    results = ablate(seeds.rolled(tmp_path, 42), conditions="runbook")
    assert results.verdict == "FAIL" and results.ablation is not None
    assert abs(results.ablation.conditions["shuffled"].gap or 1.0) < 0.05
    assert results.diagnosis[0].code == "pairs-mismatched", "a FAIL comes with the name of its fault"
