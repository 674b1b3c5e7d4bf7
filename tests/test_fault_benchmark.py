"""The fault benchmark: it counts right, covers every fault, leaves no trace, and loses no result."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from collections.abc import Iterator
from inspect import isclass
from pathlib import Path

import pytest
import torch

import fault_run
import faults
from eyechart.faults.batch_check import ONLY_IN_BATCHES
from eyechart.faults.table import FAULTS
from fault_healthy_images import HEALTHY_IMAGES
from fault_site import INSIDE_EPOCH, SAVE_EVERY, Case, Site, make_worlds, short_config, swap
from fault_table import Row, missed, reached, render, totals
from qwen3_vlm.build import build_model, prepare_data
from qwen3_vlm.data.splits import save_split
from qwen3_vlm.train.checkpoint import connector_state, save_checkpoint


def row(name: str = "case", code: str = "", **values: object) -> Row:
    return Row(name, code, "a change", "both", "scenes", **values)  # type: ignore[arg-type]


NAMED = row("a", "image-order", four="PASS", ours="diagnosed", findings=[("image-order", "error")], seconds=30)
SYNONYM = row("b", "pairs-mismatched", four="FAIL", findings=[("constant-prompt", "error")], seconds=30)
ALSO = row("c", "image-labelled", also=["prompt-labelled"], four="PASS", findings=[("prompt-labelled", "error")])
OTHER = row("d", "labels-shifted", four="PASS", findings=[("collapsed", "error"), ("labels-shifted", "error")])
REFUSED = row("e", "image-truncated", message="ValueError: too many rows are unusable")
WARNED = row("f", "slots-dead", four="PASS", findings=[("slots-dead", "warning")])
OVERLOOKED = row("g", "blue", four="PASS", findings=[("under-trained", "note")])
HALF = row("h", "split-leak", four="INCONCLUSIVE", findings=[("eval-too-small", "note")])
HEALTHY = row("i", four="PASS", findings=[("under-trained", "note")])
COMPLAINED = row("j", four="PASS", findings=[("collapsed", "error"), ("slots-dead", "warning")])


@pytest.fixture(autouse=True)
def _a_code_that_is_not_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAULTS, "blue", FAULTS["slots-dead"])


@pytest.mark.parametrize(
    ("case", "noticed", "named"),
    [
        (NAMED, True, True),
        (SYNONYM, True, True),
        (ALSO, True, True),
        (OTHER, True, False),
        (REFUSED, True, False),
        (WARNED, True, True),
        (OVERLOOKED, False, False),
        (HALF, True, False),
        (row("k", "split-leak", four="FAIL"), False, False),
    ],
    ids=lambda value: value.name if isinstance(value, Row) else str(value),
)
def test_what_counts_as_noticed_and_as_named(case: Row, noticed: bool, named: bool) -> None:
    assert (case.noticed, case.named) == (noticed, named)


def test_a_pass_beside_an_error_and_two_commands_that_differ_miss_the_target() -> None:
    error, note = [("image-order", "error")], [("under-trained", "note")]
    same = dataclasses.replace(NAMED, ablated="INCONCLUSIVE", ablate_findings=error, diagnose_findings=error)
    beside = dataclasses.replace(same, ablated="PASS")
    differ = dataclasses.replace(same, diagnose_findings=note)
    assert same.agrees and not same.contradicts and missed([same]) == [] and reached(totals([same]))
    assert beside.contradicts and missed([beside]) == [beside] and not reached(totals([beside]))
    assert not differ.agrees and missed([differ]) == [differ] and not reached(totals([differ]))
    assert dataclasses.replace(differ, ablated="").agrees, "what could not run says nothing"


def test_the_page_of_the_benchmark_has_no_pass_beside_an_error() -> None:
    page = (Path(__file__).parents[1] / "docs" / "fault-benchmark.md").read_text(encoding="utf-8")
    assert "| `ablate` says PASS beside an error | 0 |" in page
    assert "| `ablate` and `diagnose` say different things (of all cases) | 0 |" in page


def test_of_the_stored_cases_none_passes_beside_an_error_and_the_commands_agree() -> None:
    """The stored cases are all injections and some of the healthy set-ups, as they were run last."""
    text = (Path(__file__).parents[1] / "docs" / "fault-benchmark.jsonl").read_text(encoding="utf-8")
    stored = [faults.read_row(line) for line in text.splitlines()]
    assert {case.name for case in faults.INJECTIONS} <= {case.name for case in stored}
    assert not [case.name for case in stored if case.contradicts]
    # Its tower has new random weights at every loading: `trial` judges the model in memory, the others load it again.
    assert [case.name for case in stored if not case.agrees] == ["tower-from-config"]


def test_totals_count_faults_and_healthy_set_ups_apart() -> None:
    total = totals([NAMED, SYNONYM, ALSO, OTHER, REFUSED, WARNED, OVERLOOKED, HALF, HEALTHY, COMPLAINED])
    assert (total.injected, total.codes, total.noticed, total.named) == (8, 8, 7, 4)
    assert total.four == {"PASS": 5, "FAIL": 1, "INCONCLUSIVE": 1, "could not run": 1}
    assert (total.healthy, total.healthy_errors, total.healthy_warnings) == (2, 1, 1)
    assert total.healthy_four == {"PASS": 2} and total.seconds == 60


def test_the_target_needs_every_fault_noticed_and_healthy_runs_left_in_peace() -> None:
    enough = [dataclasses.replace(NAMED, name=str(i)) for i in range(19)]
    warned = row("l", findings=[("slots-dead", "warning")])
    assert reached(totals([*enough, OTHER, HEALTHY, warned]))
    assert not reached(totals([*enough[1:], OTHER, HEALTHY]))  # 18 of 19 named is less than 95%
    assert not reached(totals([*enough, OVERLOOKED]))
    assert not reached(totals([*enough, COMPLAINED]))
    assert not reached(totals([*enough, warned, warned]))
    assert not reached(totals([*enough, dataclasses.replace(NAMED, crash="exit -9")]))


def test_a_healthy_set_up_that_is_refused_is_an_error() -> None:
    assert totals([row("m", message="ValueError: no")]).healthy_errors == 1


def test_missed_are_the_rows_that_somebody_has_to_look_at() -> None:
    crashed = dataclasses.replace(NAMED, name="n", crash="exit -9")
    rows = [NAMED, OTHER, REFUSED, OVERLOOKED, HEALTHY, COMPLAINED, crashed]
    assert [r.name for r in missed(rows)] == ["d", "e", "g", "j", "n"]


def test_the_page_has_the_totals_and_one_line_for_every_case() -> None:
    rows = [NAMED, OTHER, OVERLOOKED, HEALTHY, COMPLAINED, row("o", "leak", crash="no | bars\nno lines")]
    page = render(rows, 1200, 100)
    assert "| noticed | **2** (50%) |" in page and "| missed by them (PASS) | 3 |" in page
    assert "| they could not run | 1 |" in page and "1 case crashed" in page
    assert sum(line.startswith(tuple(f"| {name} |" for name in "abcdefghijo")) for line in page.splitlines()) == 6
    assert "| collapsed (not its name) | labels-shifted |" in page and "| under-trained **missed** |" in page
    assert "no \\| bars no lines" in page


def test_every_fault_of_the_table_is_injected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FAULTS, "blue")
    injected = {case.code for case in faults.INJECTIONS}
    assert injected == set(FAULTS) - ONLY_IN_BATCHES  # those are in eyechart/tests/batch_sabotages.py
    assert len(faults.INJECTIONS) >= 40 and len(faults.HEALTHY) >= 20
    assert all(set(case.also) <= set(FAULTS) for case in faults.INJECTIONS)


def bindings() -> dict[str, int]:
    """Every name in the package and in its classes, and what it is bound to; of PyTorch, what a case may patch."""
    found: dict[str, int] = {f"torch.optim.{name}": id(value) for name, value in vars(torch.optim).items()}
    found |= {f"torch.optim.Optimizer.{name}": id(value) for name, value in vars(torch.optim.Optimizer).items()}
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith(("qwen3_vlm", "eyechart", "transformers.models.qwen3.modeling_qwen3")):
            continue
        for name, value in list(vars(module).items()):
            found[f"{module_name}.{name}"] = id(value)
            if isclass(value) and value.__module__ == module_name:
                found |= {f"{module_name}.{name}.{key}": id(part) for key, part in vars(value).items()}
    return found


PATCHES = [case for case in faults.INJECTIONS if case.change is not Case.change]


@pytest.mark.parametrize("case", PATCHES, ids=lambda case: case.name)
def test_a_patch_changes_one_function_and_leaves_no_trace(case: Case) -> None:
    before = bindings()
    with case.change():
        during = bindings()
    changed = {name for name in before if during.get(name) != before[name]}
    assert changed and len({name.rsplit(".", 1)[1] for name in changed}) == 1
    assert bindings() == before


def test_a_patched_function_is_the_same_under_every_name_it_was_imported_by() -> None:
    from qwen3_vlm.models import fusion, vlm

    with swap("qwen3_vlm.models.fusion.place", lambda original: "patched")():
        assert fusion.place == vlm.place == "patched"
    assert fusion.place is vlm.place and callable(vlm.place)


def test_a_patch_is_taken_back_where_the_case_fails() -> None:
    before = bindings()
    with pytest.raises(RuntimeError), PATCHES[0].change():
        raise RuntimeError
    assert bindings() == before


@pytest.fixture
def died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A benchmark of a case that kills its process, one that raises, and the bases they would start from."""

    def raises(site: Site) -> None:
        raise KeyError("a mistake in the set-up")

    cases = [
        Case("dies", "leak", "its process is gone", set_up=lambda site: os._exit(3)),
        Case("raises", "leak", "its set-up is wrong", set_up=raises),
    ]
    monkeypatch.setattr(faults, "CASES", {case.name: case for case in cases})
    for world in ("scenes", "digits"):
        base = faults.base_folder(tmp_path, world)  # type: ignore[arg-type]
        base.mkdir(parents=True)
        (base / "checkpoint_600.pt").touch()
    faults.run_all(tmp_path, ["dies", "raises"], reuse=False, workers=2, base=tmp_path, tried=set())
    yield tmp_path


def test_a_case_that_breaks_is_a_row_and_the_others_go_on(died: Path) -> None:
    rows = faults.read_rows(died)
    assert rows["dies"].crash == "exit 3" and "a mistake in the set-up" in rows["raises"].crash
    assert not rows["dies"].noticed and rows["raises"].how == "its set-up is wrong"


def test_of_a_case_that_ran_twice_the_last_row_counts(died: Path) -> None:
    faults._keep(died, row("dies", "leak", findings=[("leak", "error")]))
    assert faults.read_rows(died)["dies"].named


def fingerprints() -> dict[str, str]:
    """Every file that a set-up could reach, by content."""
    files = [path for folder in ("assets/tiny", "configs") for path in Path(folder).rglob("*") if path.is_file()]
    files += [*Path("data").rglob("*.json"), *sorted(Path("data/scenes").rglob("*.png"))[:60]]
    files += sorted(Path("data/digits").rglob("*.png"))[:60]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Replacements for the healthy runs: connectors that were never trained, and the split that a run saves."""
    make_worlds()
    found = {}
    for world in ("scenes", "digits"):
        folder = tmp_path_factory.mktemp(world)
        config = short_config(world, folder, [])  # type: ignore[arg-type]
        prepared = prepare_data(config)
        save_split(folder / "split.json", prepared.split, *prepared.files)
        payload = connector_state(build_model(config, prepared.inputs).connector)
        for step in (SAVE_EVERY, INSIDE_EPOCH, 600):
            save_checkpoint(folder / f"checkpoint_{step}.pt", {**payload, "step": step, "config": config.to_yaml()})
        found[world] = folder
    return found


@pytest.mark.slow
def test_a_set_up_writes_only_into_its_own_folder(bases: dict[str, Path], tmp_path: Path) -> None:
    before, base_before = fingerprints(), {w: sorted(p.iterdir()) for w, p in bases.items()}
    # Painting every image anew takes seconds, and these share one function with cases that are tried here; two others
    # train a language model for most of a minute.
    slow = {case.name for case in HEALTHY_IMAGES[4:14]} | {"upper-case-read", "language-model-of-another-world"}
    for case in (case for case in faults.CASES.values() if case.name not in slow):
        folder = tmp_path / case.name
        folder.mkdir()
        site = Site(folder, case.world, bases[case.world])
        case.set_up(site)
        assert site.config().output_dir == str(folder / "run"), case.name
    assert fingerprints() == before
    assert {w: sorted(p.iterdir()) for w, p in bases.items()} == base_before


@pytest.mark.slow
def test_a_case_becomes_a_row_with_both_verdicts(bases: dict[str, Path], tmp_path: Path) -> None:
    case = faults.CASES["nothing-placed-when-evaluated"]
    found = fault_run.run_case(case, Site(tmp_path, case.world, bases[case.world]))
    assert found.four == "FAIL" and not found.crash and found.noticed
    assert found.ours == "diagnosed" and found.seconds > found.diagnosing > 0
