"""A checkpoint opens with its evidence: every stage that differs from the training is named, a healthy one is silent.

In most tests the `.pt` is alone in its folder, without the split, the log and the findings of its run.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from eyechart.exits import NamedInputError
from eyechart.results import Finding
from eyechart.scoring.batching import collate
from eyechart.settings import AblationSettings
from qwen3_vlm import ablate
from qwen3_vlm.build import prepare_data
from qwen3_vlm.cli import main
from qwen3_vlm.commands.loaded import Loaded, judge_of, load, open_with_data, run_config
from qwen3_vlm.data.recorded import RecordedSplit
from qwen3_vlm.data.splits import DataFile, Split, load_split
from qwen3_vlm.models.llm import LanguageModel
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.checkpoint import load_checkpoint
from qwen3_vlm.train.evidence.canary import loss_difference, read, visual_difference
from qwen3_vlm.train.evidence.comparison import Allowed
from qwen3_vlm.train.evidence.record import KEY, sealed
from tiny_runs import ROWS, TinyWorld, make_world

CHANGED = {
    "file-damaged",
    "data-changed",
    "tokenizer-changed",
    "prompt-changed",
    "pixels-changed",
    "backbone-changed",
    "visual-tokens-changed",
    "loss-not-reproduced",
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    torch.set_num_threads(1)
    world = make_world(tmp_path_factory.mktemp("evidence"))
    world.train("run", train__epochs=1, train__save_every=2)
    return world


@pytest.fixture
def world(original: TinyWorld, tmp_path: Path) -> TinyWorld:
    """A copy of backbones and data, to change, and the `.pt` alone in the folder `alone`."""
    copy = TinyWorld(tmp_path)
    for name in ("vision", "llm", "data"):
        shutil.copytree(original.root / name, tmp_path / name)
    (tmp_path / "alone").mkdir()
    shutil.copy(original.root / "run" / "checkpoint_5.pt", pt(copy))
    return copy


def pt(world: TinyWorld) -> Path:
    return world.root / "alone" / "checkpoint_5.pt"


def opened(world: TinyWorld, **changes: Any) -> Loaded:
    return open_with_data(pt(world), world.config("run", train__epochs=1, **changes))[0]


def codes(world: TinyWorld, **changes: Any) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in opened(world, **changes).findings]


def edit(path: Path, change: Callable[[Any], object]) -> None:
    tree = json.loads(path.read_text(encoding="utf-8"))
    change(tree)
    path.write_text(json.dumps(tree), encoding="utf-8")


def repack(path: Path, change: Callable[[dict[str, Any]], object], seal: bool = False) -> None:
    payload = torch.load(path, weights_only=True)
    change(payload)
    torch.save(sealed(payload) if seal else payload, path)


def test_a_healthy_checkpoint_is_opened_without_a_finding_with_and_without_the_files_of_its_run(
    world: TinyWorld, original: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    assert codes(world) == []
    assert open_with_data(original.root / "run" / "checkpoint_5.pt")[0].findings == []
    assert load(pt(world), world.config("run", train__epochs=1)).findings == []
    assert "note" not in capsys.readouterr().err


def test_the_pt_alone_knows_both_sides_of_the_split(world: TinyWorld, original: TinyWorld) -> None:
    prepared = prepare_data(world.config("run"))
    recorded = RecordedSplit.from_plain(load_checkpoint(pt(world))[KEY]["split"], pt(world))
    assert recorded.split == load_split(original.root / "run" / "split.json", *prepared.files)
    assert (recorded.data, recorded.eval_data) == prepared.files


@given(st.data())
def test_a_recorded_split_comes_back_row_for_row(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 60))
    sides = data.draw(st.lists(st.sampled_from("tenr"), min_size=rows, max_size=rows))
    train, drawn, left = ([i for i, side in enumerate(sides) if side == name] for name in "ter")
    held_out = data.draw(st.permutations(drawn))
    repeats = tuple((row, held_out[0]) for row in left) if held_out else ()
    split = Split(tuple(train), tuple(held_out), repeats)
    recorded = RecordedSplit(DataFile("a.json", rows, "x"), None, split)
    file = io.BytesIO()
    torch.save(recorded.to_plain(), file)
    file.seek(0)
    assert RecordedSplit.from_plain(torch.load(file, weights_only=True), Path("c.pt")) == recorded


@pytest.mark.parametrize("part", ["first tensor", "middle", "optimizer", "pickle"])
def test_a_flipped_bit_anywhere_in_the_file_is_a_damaged_file_for_every_command(
    world: TinyWorld, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(pt(world).read_bytes())
    payload = torch.load(pt(world), weights_only=True)
    state = payload["optimizer"]["state"][0]["exp_avg"] if part == "optimizer" else payload["projector"]["net.0.weight"]
    latents = payload["resampler"]["latents"]
    wanted = {"first tensor": latents.numpy().tobytes(), "pickle": b"net.0.weight"}.get(part, state.numpy().tobytes())
    data[data.index(wanted) + len(wanted) // 2] ^= 4
    pt(world).write_bytes(bytes(data))
    config = str(world.config_file("run", train__epochs=1))
    for command in (
        ["ablate", "--config", config, "--checkpoint", str(pt(world))],
        ["export", "--checkpoint", str(pt(world)), "--output", str(world.root / "out")],
        ["caption", "--checkpoint", str(pt(world)), str(world.image_root / "images" / "00000.png")],
    ):
        assert main(command) == 2
        assert "checkpoint_5.pt: the file is damaged: its part" in capsys.readouterr().err
    assert main(["diagnose", "--config", config, "--checkpoint", str(pt(world)), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["diagnosis"][0]["code"] == "file-damaged"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["resampler"]["latents"].add_(1e-6), "`resampler.latents` does not have the values"),
        (
            lambda p: p["resampler"].update(latents=p["resampler"]["latents"].half()),
            r"`resampler.latents` is float16 \(4, 16\), it was saved as float32",
        ),
        (lambda p: p["projector"].pop("net.0.bias"), "`projector.net.0.bias` is missing"),
        (lambda p: p["projector"].update(more=torch.ones(2)), "`projector.more` was added"),
        (lambda p: p[KEY]["split"]["train"].zero_(), "the evidence in it is not what was saved"),
        (lambda p: p[KEY]["canary"]["losses"].mul_(1.5), "the evidence in it is not what was saved"),
    ],
    ids=["value", "dtype", "missing", "added", "split", "canary"],
)
def test_a_file_that_was_edited_and_saved_again_is_damaged(
    world: TinyWorld, change: Callable[[Any], object], message: str
) -> None:
    repack(pt(world), change)
    for open_it in (lambda: opened(world), lambda: load(pt(world), world.config("run", train__epochs=1))):
        with pytest.raises(NamedInputError, match=f"the file is damaged: {message}") as caught:
            open_it()
        assert caught.value.code == "file-damaged"


def swap_two_tokens(world: TinyWorld, text: str) -> None:
    file = world.root / "llm" / "tokenizer.json"
    one, other = dict.fromkeys(Tokenizer.from_file(str(file)).encode(text, add_special_tokens=False).tokens[:2])

    def swap(tree: Any) -> None:
        vocabulary = tree["model"]["vocab"]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]

    edit(file, swap)


def test_another_tokenizer_is_a_warning_where_it_gives_the_same_ids(world: TinyWorld) -> None:
    swap_two_tokens(world, "QZ")
    assert codes(world) == [("tokenizer-changed", "warning")]


def test_another_tokenizer_is_the_first_stage_that_differs(world: TinyWorld) -> None:
    swap_two_tokens(world, "a red circle")
    (found,) = opened(world).findings
    assert (found.code, found.severity) == ("tokenizer-changed", "error")
    assert "vocabulary" in found.message
    assert [f.code for f in load(pt(world), world.config("run", train__epochs=1)).findings] == ["tokenizer-changed"]


def test_another_prompt_is_named_and_a_setting_without_effect_on_the_rows_is_a_note(world: TinyWorld) -> None:
    (found,) = opened(world, prompt__template="Look: {human}\n").findings
    assert found.code == "prompt-changed" and "prompt.template was '{human}\\n', is" in found.message
    assert codes(world, data__max_seq_len=65) == [("prompt-changed", "note")]
    assert codes(world, data__max_seq_len=15) == [("prompt-changed", "error")]


def test_other_preprocessing_is_named(world: TinyWorld) -> None:
    edit(world.root / "vision" / "preprocessor_config.json", lambda tree: tree.update(image_mean=[0.4, 0.5, 0.5]))
    (found,) = opened(world).findings
    assert found.code == "pixels-changed" and "mean was [0.5, 0.5, 0.5], is [0.4, 0.5, 0.5]" in found.message


@pytest.mark.parametrize("how", ["other", "gone"])
def test_another_picture_of_a_held_out_row_is_named_with_the_row(world: TinyWorld, how: str) -> None:
    row = load_checkpoint(pt(world))[KEY]["canary"]["rows"][1]
    image = world.image_root / "images" / f"{row:05d}.png"
    if how == "gone":
        image.write_bytes(b"")
    else:
        Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    (found,) = opened(world).findings
    assert (found.code, found.severity) == ("pixels-changed", "error") and f"row {row}" in found.message


def test_pixels_that_no_visual_token_shows_are_a_warning(world: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3_vlm.train.evidence.canary.content_hash", lambda pixels_CHW: "rounded otherwise")
    (found,) = opened(world).findings
    assert (found.code, found.severity) == ("pixels-changed", "warning") and "agree within rounding" in found.message


@pytest.mark.parametrize("part", ["vision", "llm"])
def test_other_backbones_are_refused_with_the_first_weight_that_differs(world: TinyWorld, part: str) -> None:
    file = world.root / part / "model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name].reshape(-1)[0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(NamedInputError, match=rf"another model.{part}: .*; 1 of \d+ weights differ \(first ") as caught:
        opened(world)
    assert caught.value.code == "backbone-changed"


def test_of_another_language_model_with_another_tokenizer_the_tokenizer_is_named_first(world: TinyWorld) -> None:
    file = world.root / "llm" / "model.safetensors"
    save_file({k: v * 1.1 for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    swap_two_tokens(world, "a red circle")
    with pytest.raises(NamedInputError, match=r"another model.llm: .*; the tokenizer is not the one") as caught:
        opened(world)
    assert caught.value.code == "tokenizer-changed"


def test_a_backbone_saved_in_another_precision_with_the_same_rounded_values_is_the_same(world: TinyWorld) -> None:
    for part in ("vision", "llm"):
        file = world.root / part / "model.safetensors"
        save_file({k: v.to(torch.bfloat16) for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    loaded = load(pt(world), world.config("run", train__epochs=1))
    assert loaded.findings == []


@pytest.mark.parametrize(
    ("target", "attribute", "change", "code"),
    [
        (VLM, "visual", lambda out: out * 1.02, "visual-tokens-changed"),
        (VLM, "visual", lambda out: out.flip(0), "visual-tokens-changed"),
        (VLM, "visual", lambda out: out * float("nan"), "visual-tokens-changed"),
        (LanguageModel, "nll", lambda out: type(out)(out.nll_N * 1.02, out.counts_B), "loss-not-reproduced"),
        (LanguageModel, "nll", lambda out: type(out)(out.nll_N * float("nan"), out.counts_B), "loss-not-reproduced"),
    ],
    ids=["scaled", "other order", "NaN tokens", "other losses", "NaN losses"],
)
def test_a_model_that_computes_otherwise_is_named_at_its_stage(
    world: TinyWorld,
    monkeypatch: pytest.MonkeyPatch,
    target: type,
    attribute: str,
    change: Callable[[Any], Any],
    code: str,
) -> None:
    usual = getattr(target, attribute)
    monkeypatch.setattr(target, attribute, lambda self, *a: change(usual(self, *a)))
    assert codes(world) == [(code, "error")]


def test_weights_saved_wrongly_give_other_visual_tokens_than_the_model_that_was_trained(world: TinyWorld) -> None:
    repack(pt(world), lambda p: p["projector"]["net.0.weight"].mul_(1.1), seal=True)
    assert codes(world) == [("visual-tokens-changed", "error")]


def test_a_difference_is_an_error_of_ablate_which_then_never_passes_and_never_exits_0(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = LanguageModel.nll
    monkeypatch.setattr(
        LanguageModel, "nll", lambda self, *a: (lambda out: type(out)(out.nll_N * 1.2, out.counts_B))(usual(self, *a))
    )
    results = ablate(pt(world), world.config("run", train__epochs=1), conditions="runbook")
    found = {f.code: f for f in results.diagnosis}
    assert found["loss-not-reproduced"].severity == "error" and results.verdict != "PASS"


def test_another_precision_is_compared_by_its_mean_loss_alone(world: TinyWorld) -> None:
    assert codes(world, model__precision="bf16") == []
    canary = load_checkpoint(pt(world))[KEY]["canary"]
    assert Allowed.of(canary, "cpu", "bf16") == Allowed(None, None) == Allowed.of(canary, "NVIDIA H200", "fp32")
    limits = Allowed.of(canary, "cpu", "fp32")
    assert limits.visual is not None and limits.losses is not None and 0 < limits.visual <= 1e-2
    assert canary["device"] == "cpu" and canary["precision"] == "fp32" and set(canary["spread"]) == {"visual", "losses"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(st.data())
def test_the_canary_depends_neither_on_the_order_nor_on_the_batches_of_its_rows(
    original: TinyWorld, data: st.DataObject
) -> None:
    loaded, prepared = open_with_data(original.root / "run" / "checkpoint_5.pt")
    canary = loaded.payload[KEY]["canary"]
    order = data.draw(st.permutations(range(len(prepared.eval))))
    size = data.draw(st.integers(1, len(order)))
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    now = read(loaded.vlm, [collate([prepared.eval[p] for p in group], prepared.inputs.pad_id) for group in groups])
    now = now.sorted()
    assert (now.rows, now.ids, now.pixels) == (canary["rows"], canary["ids"], canary["pixels"])
    limits = Allowed.of(canary, "cpu", "fp32")
    assert limits.visual is not None and limits.losses is not None
    assert visual_difference(canary["visual"], now.visual_SK) <= limits.visual
    assert loss_difference(canary["losses"], torch.cat(now.losses)) <= limits.losses


def test_the_canary_holds_no_text_and_no_picture_and_can_be_left_out(world: TinyWorld) -> None:
    canary = load_checkpoint(pt(world))[KEY]["canary"]
    file = io.BytesIO()
    torch.save(canary, file)
    kept = file.getvalue()
    for row in json.loads((world.image_root / "data.json").read_text(encoding="utf-8")):
        assert row["conversations"][1]["value"].encode() not in kept and row["image"].encode() not in kept
    assert canary["visual"].shape == (len(canary["rows"]), 9) and len(canary["ids"][0]) == 32
    assert main(["train", "--config", str(world.config_file("bare", train__epochs=1)), "--no-canary"]) == 0
    bare = load_checkpoint(world.root / "bare" / "checkpoint_5.pt")
    assert bare[KEY]["canary"] is None and len(bare[KEY]["weights"]["llm"]) > 10


def test_an_older_checkpoint_loads_with_a_line_and_its_backbones_are_still_compared(
    world: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    from eyechart.models.weights import fingerprint

    vlm = opened(world).vlm
    parts = {"vision": vlm.tower.model, "llm": vlm.llm.model}

    def age(payload: dict[str, Any]) -> None:
        del payload[KEY]
        for part, identity in payload["backbones"].items():
            del identity["digest"]
            identity["fingerprint"] = fingerprint(parts[part])

    repack(pt(world), age)
    assert codes(world) == []
    assert "has no evidence of its training (it is of an older version)" in capsys.readouterr().err
    file = world.root / "llm" / "model.safetensors"
    save_file({k: v * 1.1 for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(NamedInputError, match=r"trained with another model.llm"):
        opened(world)


def reverse(rows: list[Any]) -> None:
    rows.reverse()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (reverse, "data.json_file is not the file"),
        (lambda rows: rows.pop(), "data.json_file is not the file"),
        (lambda rows: rows[0]["conversations"][1].update(value="a cat"), "data.json_file is not the file"),
    ],
    ids=["another order", "a row less", "another caption"],
)
def test_another_data_file_is_refused_in_one_line_and_named_by_diagnose(
    world: TinyWorld, change: Callable[[Any], object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(world.image_root / "data.json", change)
    config = str(world.config_file("run", train__epochs=1))
    assert main(["ablate", "--config", config, "--checkpoint", str(pt(world))]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message} that {pt(world)} was drawn from") and err.count("\n") == 1
    assert main(["diagnose", "--config", config, "--checkpoint", str(pt(world)), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["diagnosis"][0]["code"] == "data-changed"


def test_rows_that_were_trained_on_are_never_scored_whatever_the_config_asks_for(world: TinyWorld) -> None:
    recorded = RecordedSplit.from_plain(load_checkpoint(pt(world))[KEY]["split"], pt(world))
    prepared = open_with_data(pt(world), world.config("run", train__epochs=1, seed=7))[1]
    assert set(prepared.eval.rows) == set(recorded.split.eval), "the seed does not draw another split"
    assert not set(prepared.eval.rows) & set(recorded.split.train)
    for changes in ({"data__eval_ratio": 0.5}, {"data__max_samples": 10}):
        with pytest.raises(NamedInputError, match="its rows were drawn with data") as caught:
            opened(world, **changes)
        assert caught.value.code == "data-changed"
    with pytest.raises(NamedInputError, match=r"data.eval_json is not the file .*it was not set") as caught:
        opened(world, data__eval_json=str(world.image_root / "data.json"))
    assert caught.value.code == "data-changed"


def test_a_record_with_trained_rows_on_the_held_out_side_is_refused(world: TinyWorld) -> None:
    files = prepare_data(world.config("run")).files
    for eval_data in (None, files[0]):
        wrong = RecordedSplit(files[0], eval_data, Split(tuple(range(ROWS - 2)), (ROWS - 1, 3)))
        with pytest.raises(NamedInputError, match=r"1 of 2 held-out rows were trained on \(first row 3\)"):
            wrong.checked(files[0], eval_data, None, "a checkpoint")


def test_a_split_file_that_disagrees_with_the_checkpoint_is_refused(world: TinyWorld, original: TinyWorld) -> None:
    beside = pt(world).parent / "split.json"
    shutil.copy(original.root / "run" / "split.json", beside)
    assert codes(world) == []
    edit(beside, lambda tree: tree.update(train=sorted([*tree["train"][1:], tree["eval"][0]]), eval=tree["eval"][1:]))
    with pytest.raises(NamedInputError, match="does not contain the training and held-out rows that") as caught:
        opened(world)
    assert caught.value.code == "data-changed"


def test_a_checkpoint_does_not_bring_its_own_pass_mark(world: TinyWorld, capsys: pytest.CaptureFixture[str]) -> None:
    lenient = {"train__epochs": 1, "ablation__margin_shuffled": 0.0, "ablation__derangements": 1}
    moved = world.config("run", **lenient).to_yaml()
    repack(pt(world), lambda p: p.update(config=moved))
    command = ["ablate", "--checkpoint", str(pt(world)), "--conditions", "runbook", "--json"]
    main([*command, "--ablation.derangements", "2"])
    tree = json.loads(capsys.readouterr().out)
    assert tree["judged_by"] == "defaults with --ablation.derangements"
    assert (tree["config"]["ablation"]["margin_shuffled"], tree["config"]["ablation"]["derangements"]) == (0.05, 2)
    assert tree["config"]["train"]["epochs"] == 1
    config = world.config_file("lenient", **lenient)
    assert run_config(config, pt(world), ()).ablation.margin_shuffled == 0 and judge_of(config, ()) == str(config)
    assert run_config(None, pt(world), ()).ablation == AblationSettings() and judge_of(None, ()) == "defaults"
    for name in ("shuffled", "zero", "noise"):
        assert main([*command, f"--ablation.margin_{name}", "-1"]) == 2
        assert f"ablation.margin_{name}: Input should be greater than or equal to 0" in capsys.readouterr().err


def test_scoring_makes_no_world_outside_its_own_place(world: TinyWorld, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = world.root / "drawn_here"
    changes = {"data__world": "scenes", "data__image_root": str(elsewhere)}
    config = str(world.config_file("run", train__epochs=1, **changes))
    assert main(["ablate", "--config", config, "--checkpoint", str(pt(world))]) == 2
    err = capsys.readouterr().err
    assert "scoring makes it only in data/scenes" in err and err.count("\n") == 1
    assert not elsewhere.exists()


def test_a_run_does_not_resume_with_other_pictures(world: TinyWorld) -> None:
    world.train("run", train__epochs=1, train__save_every=2).unlink()
    row = load_checkpoint(pt(world))[KEY]["canary"]["rows"][0]
    image = world.image_root / "images" / f"{row:05d}.png"
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)

    with pytest.raises(NamedInputError, match="other pixels than when the checkpoint was saved") as caught:
        world.train("run", resume=True, train__epochs=1, train__save_every=2)
    assert caught.value.code == "resume-drift"


def test_every_finding_of_the_evidence_has_a_message_and_a_fix(world: TinyWorld) -> None:
    found: list[Finding] = opened(world, prompt__template="Look: {human}\n").findings
    assert all(f.message and f.fix and f.code in CHANGED for f in found)
