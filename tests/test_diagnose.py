"""`qwen3-vlm diagnose`: what it prints, what it returns, and what it makes of input that training would refuse."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from eyechart.data.encoded import Encoded
from eyechart.faults.table import finding
from preflight_world import World, make_world
from qwen3_vlm.build import prepare_data
from qwen3_vlm.cli import main
from qwen3_vlm.commands import diagnosis as room
from qwen3_vlm.commands import measuring
from qwen3_vlm.data.splits import save_split
from qwen3_vlm.preflight import View
from qwen3_vlm.preflight.show import print_findings, print_sample, summary
from qwen3_vlm.preflight.view import Span
from qwen3_vlm.train.checkpoint import connector_state, save_checkpoint


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    (world.root / "run.yaml").write_text(yaml.safe_dump(world.tree))
    return world


def diagnose(world: World, *more: str) -> int:
    return main(["diagnose", "--config", str(world.root / "run.yaml"), "--rows", "8", *more])


def test_a_sound_set_up_ends_with_0_and_shows_a_sample(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagnose(world) == 0
    out = capsys.readouterr().out
    assert "  IMAGE 6 tokens '<|vision_start|><|image_pad|> x4 <|vision_end|>'" in out
    assert "  LABEL " in out and "A small red circle at the left<|endoftext|>'" in out
    assert out.splitlines()[-1] == "DIAGNOSIS: no fault found in 16 rows and a batch of 4"


@pytest.mark.parametrize(
    ("limit", "template", "code"),
    [
        ("5", "<image>", "image-truncated"),
        ("8", "<image> Describe the picture for me, please: ", "no-labels"),
        ("10", "<image>", "answer-truncated"),
    ],
)
def test_a_fault_ends_with_1_and_is_named_wherever_it_is_met(
    world: World, capsys: pytest.CaptureFixture[str], limit: str, template: str, code: str
) -> None:
    """By the config's own check, by the encoding, and by the preflight."""
    assert diagnose(world, "--data.max_seq_len", limit, "--prompt.template", f"'{template}'", "--json") == 1
    found = json.loads(capsys.readouterr().out)["diagnosis"]
    assert (found[0]["code"], found[0]["severity"]) == (code, "error")
    assert found[0]["fix"]


@pytest.mark.parametrize("more", [("--rows", "0"), ("--train.lr", "-1"), ("--data.json_file", "nowhere.json")])
def test_bad_usage_ends_with_2(world: World, more: tuple[str, str]) -> None:
    assert diagnose(world, *more) == 2


def test_without_config_and_checkpoint_there_is_nothing_to_diagnose(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose"]) == 2
    assert "--config, --checkpoint, or both" in capsys.readouterr().err


def untrained(world: World) -> tuple[Path, list[int]]:
    """A checkpoint of a connector at its start, and the held-out rows."""
    config = world.config(ablation__num_samples=8)
    prepared = prepare_data(config)
    folder = world.root / "fresh"
    payload = {**connector_state(world.model(config).connector), "step": 5, "updates": 3, "config": config.to_yaml()}
    save_checkpoint(folder / "checkpoint_5.pt", payload)
    save_split(folder / "split.json", prepared.split, *prepared.files)
    return folder / "checkpoint_5.pt", list(prepared.split.eval)


def test_too_many_unreadable_held_out_images_are_named_and_not_an_error_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(tmp_path)
    checkpoint, held_out = untrained(world)
    for row in held_out[:2]:
        world.image(row).write_bytes(b"no image")
    assert main(["diagnose", "--checkpoint", str(checkpoint), "--rows", "2", "--json"]) == 1
    found = {f["code"]: f["severity"] for f in json.loads(capsys.readouterr().out)["diagnosis"]}
    assert found["images-unreadable"] == "error"


def test_a_checkpoint_that_cannot_be_scored_is_read_with_what_the_preflight_found(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, _ = untrained(world)

    def broken(*_: object) -> None:
        raise AssertionError("scorer returned 19 losses for 18 label tokens")

    monkeypatch.setattr(room, "score", broken)
    assert main(["diagnose", "--checkpoint", str(checkpoint), "--rows", "8"]) == 4, (
        "an internal error although the input is valid"
    )
    capsys.readouterr()
    cut = ["--data.max_seq_len", "10", "--prompt.template", "'<image>'", "--json"]
    assert main(["diagnose", "--checkpoint", str(checkpoint), "--rows", "8", *cut]) == 1
    found = json.loads(capsys.readouterr().out)
    assert "answer-truncated" in {f["code"] for f in found["diagnosis"]}
    assert found["looked_at"].endswith("which could not be scored")


def test_ablate_names_the_fault_that_makes_scoring_fail_and_any_other_failure_stays_a_bug(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, _ = untrained(world)

    def broken(*_: object) -> None:
        raise AssertionError("scorer returned 19 losses for 18 label tokens")

    monkeypatch.setattr(measuring, "score", broken)
    assert main(["ablate", "--checkpoint", str(checkpoint)]) == 4
    capsys.readouterr()
    labels_T = Encoded.labels_T.fget
    assert labels_T is not None

    def labelled(encoded: Encoded) -> Any:
        made_T = labels_T(encoded)
        after = slice(encoded.block[1], len(encoded.prompt.ids_T))
        made_T[after] = encoded.ids_T[after]
        return made_T

    monkeypatch.setattr(Encoded, "labels_T", property(labelled))
    assert main(["ablate", "--checkpoint", str(checkpoint)]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: prompt-labelled: ")


def test_a_backbone_changed_since_training_is_named_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, _ = untrained(make_world(tmp_path))
    build = room.build_model

    def changed(*given: Any) -> Any:
        vlm = build(*given)
        vlm.llm.model.model.layers[0].mlp.up_proj.weight.data.mul_(0.5)
        return vlm

    monkeypatch.setattr(room, "build_model", changed)
    assert main(["diagnose", "--checkpoint", str(checkpoint), "--rows", "8", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["diagnosis"][0]["code"] == "tower-uninitialised"


def test_a_connector_that_was_never_trained_is_named_with_its_checkpoint(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, _ = untrained(world)
    assert main(["diagnose", "--checkpoint", str(checkpoint), "--rows", "8", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["diagnosis"][0]["code"] == "connector-not-loaded"
    assert "12 scored samples" in found["looked_at"]


# --- the terminal ---------------------------------------------------------------------------------------------------


def test_text_of_a_caption_cannot_drive_the_terminal() -> None:
    stream = io.StringIO()
    hostile = "\x1b[2J [bold]red[/bold] \u202e"
    print_sample(View(3, "a.png", hostile, (Span("label", hostile, 4),)), stream)
    print_findings([finding("no-labels", hostile, hostile)], "8 rows", stream)
    shown = stream.getvalue()
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "[bold]red[/bold]" in shown


def test_every_finding_has_its_evidence_its_cure_and_its_page() -> None:
    stream = io.StringIO()
    print_findings([finding("split-leak", "Too much.", "Change it.", rows=7, more={"a": 1})], "8 rows", stream)
    assert stream.getvalue().splitlines() == [
        "1. error split-leak: Too much.",
        "   evidence: rows 7",
        "   fix: Change it.",
        "   page: docs/faults/split-leak.md",
        "DIAGNOSIS: 1 error in 8 rows; first split-leak",
    ]


def test_the_last_line_counts_by_severity() -> None:
    found = [finding("no-labels", "m", "f"), finding("split-leak", "m", "f"), finding("under-trained", "m", "f")]
    assert summary(found, "8 rows") == "DIAGNOSIS: 2 errors, 1 note in 8 rows; first no-labels"


def test_the_state_of_the_run_is_untouched(world: World) -> None:
    before = sorted(str(path) for path in Path(world.root).rglob("*"))
    diagnose(world)
    assert sorted(str(path) for path in Path(world.root).rglob("*")) == before
