"""Training on a world of 22 rows: the loss contract, the log, what stays frozen, what is refused, how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from eyechart.exits import NonFiniteError
from eyechart.scoring.batching import collate
from eyechart.seam import Reject, Sample, VisualTokens
from qwen3_vlm import ablate
from qwen3_vlm.build import build_model, prepare_data
from qwen3_vlm.cli import main as cli
from qwen3_vlm.models.vision import VisionTower
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train import features, loop, stage1, update
from qwen3_vlm.train.checkpoint import find_checkpoints, load_checkpoint
from qwen3_vlm.train.features import CachedDataset
from qwen3_vlm.train.schedule import micro_batches, plan_epoch
from qwen3_vlm.train.stage1_align import main
from qwen3_vlm.train.train_utils import EpochRecord, append_record, forget_records, read_records_of_run
from tiny_runs import (
    EPOCHS,
    LAST_STEP,
    STEPS_PER_EPOCH,
    UPDATES_PER_EPOCH,
    TinyWorld,
    file_size_limit,
    log_of,
    make_world,
    same,
    weights_of,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def done(world: TinyWorld) -> Path:
    """The last checkpoint of a whole run."""
    return world.train("done")


@pytest.fixture
def broken_image(world: TinyWorld) -> Iterator[int]:
    """A training row whose image is cut off; repaired afterwards."""
    row = prepare_data(world.config("x")).split.train[3]
    path = world.image_root / "images" / f"{row:05d}.png"
    data = path.read_bytes()
    path.write_bytes(data[:50])
    yield row
    path.write_bytes(data)


OF_A_RUN = ("config.yaml", "split.json", "log.jsonl", "findings.jsonl", "run.json")


def steps_in(folder: Path) -> list[int]:
    return [int(path.stem.split("_")[1]) for path in find_checkpoints(folder)]


def test_a_run_ends_at_the_step_that_counts_batches_and_saves_after_each_epoch(done: Path) -> None:
    assert done.name == f"checkpoint_{LAST_STEP}.pt" and steps_in(done.parent) == [STEPS_PER_EPOCH, LAST_STEP]
    payload = load_checkpoint(done)
    assert (payload["step"], payload["updates"]) == (LAST_STEP, UPDATES_PER_EPOCH * EPOCHS)


def test_the_run_leaves_its_config_its_split_and_no_temporary_file(done: Path) -> None:
    names = {path.name for path in done.parent.iterdir()}
    assert names == {"checkpoint_5.pt", "checkpoint_10.pt", *OF_A_RUN}


def test_training_lowers_the_loss_on_the_rows_it_sees(done: Path) -> None:
    first, last = log_of(done.parent)
    assert last["train_loss"] < first["train_loss"] - 0.3


def test_each_epoch_logs_the_figures_of_check_2_the_losses_and_what_was_done(done: Path, world: TinyWorld) -> None:
    train = prepare_data(world.config("done")).train
    samples = [train.text(i) for i in range(len(train))]
    labels = sum(s.label_tokens for s in samples)
    for number, record in enumerate(log_of(done.parent), start=1):
        assert (record["epoch"], record["step"]) == (number, number * STEPS_PER_EPOCH)
        assert record["updates"] == number * UPDATES_PER_EPOCH
        assert (record["samples"], record["truncated"], record["zero_label"]) == (18, 0, 0)
        assert (record["truncated_pct"], record["zero_label_pct"]) == (0.0, 0.0)
        assert record["label_tokens"] == labels and record["avg_label_tokens"] == pytest.approx(labels / 18)
        assert sum(n * int(length) for length, n in record["lengths"].items()) == sum(s.full_length for s in samples)
        assert 0 < record["eval_loss"] < 10 and record["grad_norm"] > 0 and record["learning_rate"] > 0
        assert (record["rejected"], record["eval_rejected"]) == ({}, {})


def test_truncated_and_label_less_samples_are_counted_while_training(world: TinyWorld) -> None:
    # Sequences are 16, 20 or 24 tokens long; 13 end directly after the prompt of the shortest.
    cut = log_of(world.train("cut", force=True, data__max_seq_len=18, train__epochs=1).parent)[0]
    assert cut["truncated"] == cut["samples"] - cut["lengths"]["16"] > 0
    assert cut["truncated_pct"] == pytest.approx(100 * cut["truncated"] / 18)


def test_the_epoch_line_shows_check_2_and_both_losses(world: TinyWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.train("line", train__epochs=1)
    out = capsys.readouterr().out.splitlines()
    parts = [line.split(":")[0].split(maxsplit=1) for line in out[:4]]
    assert parts == [
        ["frozen", "vision tower"],
        ["trained", "resampler"],
        ["trained", "projector"],
        ["frozen", "language model"],
    ]
    assert sum(line.startswith("epoch ") for line in out) == 1
    record = log_of(world.root / "line")[0]
    line = f"epoch 1/1 | step 5 | train {record['train_loss']:.4f} | eval {record['eval_loss']:.4f} | truncated 0.00%"
    assert out[-1].startswith(f"{line} | zero-label 0.00% | label tokens {record['avg_label_tokens']:.1f} | ")
    assert out[-1].endswith(" samples/s")


def test_the_eval_loss_is_the_token_weighted_loss_of_the_held_out_rows(done: Path, world: TinyWorld) -> None:
    config = world.config("done")
    prepared = prepare_data(config)
    vlm = build_model(config, prepared.inputs)
    vlm.connector.load_state_dict(flat(load_checkpoint(done)))
    nll = tokens = 0.0
    for position in range(len(prepared.eval)):
        batch = collate([prepared.eval[position]], 0)
        nll += float(vlm.nll(batch, vlm.encode(batch)).nll_N.sum())
        tokens += batch.stats.label_tokens
    assert log_of(done.parent)[-1]["eval_loss"] == pytest.approx(nll / tokens, abs=1e-5)


@pytest.mark.parametrize("unreadable", [False, True])
def test_the_log_has_the_loss_of_the_first_rows_that_check_1_finds_again(world: TinyWorld, unreadable: bool) -> None:
    rows = prepare_data(world.config("x")).split.eval
    path = world.image_root / "images" / f"{rows[1]:05d}.png"
    data = path.read_bytes()
    settings = {"ablation__num_samples": 3, "ablation__batch_size": 2, "train__epochs": 1}
    path.write_bytes(b"" if unreadable else data)
    try:
        last = world.train(f"part_{unreadable}", data__cache_features="off", **settings)
        results = ablate(last, world.config("x", **settings), conditions="runbook")
    finally:
        path.write_bytes(data)
    assert results.ablation is not None and results.training is not None
    part, scored = results.training.eval_part, results.ablation
    assert part is not None and (part.rows, part.samples) == (3, 2 if unreadable else 3)
    assert (scored.requested, scored.samples) == (part.rows, part.samples)
    assert scored.conditions["correct"].loss == pytest.approx(part.loss, rel=1e-5)
    assert part.loss != pytest.approx(results.training.eval_loss, rel=1e-5), "it is not the loss of all rows"


@pytest.mark.parametrize("size", [1, 4, 5, 18, 64])
def test_features_cached_in_several_batches_are_those_of_each_image(
    world: TinyWorld, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare_data(world.config("batches"))
    vlm, bad = build_model(world.config("batches"), prepared.inputs), 6
    read = type(prepared.train).__getitem__

    def unreadable(dataset: Any, position: int) -> Any:
        return Reject(99, "image missing", "gone") if position == bad else read(dataset, position)

    monkeypatch.setattr(type(prepared.train), "__getitem__", unreadable)
    monkeypatch.setattr(features, "_ENCODE_BATCH", size)
    cached = features.cache_features(vlm, prepared.train, "training", tmp_path)
    assert len(cached) == 18 and list(cached.rejects) == [bad] and cached[bad] == cached.rejects[bad]
    for position in set(range(18)) - {bad}:
        item, whole = cached[position], read(prepared.train, position)
        assert isinstance(item, Sample) and isinstance(whole, Sample)
        expected_PV = vlm.features(collate([whole], 0))[0]
        assert torch.allclose(item.features_PV, expected_PV, atol=1e-5), position
        assert item.image_hash == whole.image_hash


def flat(payload: dict[str, Any]) -> dict[str, Any]:
    return {f"{part}.{k}": v for part in ("resampler", "projector") for k, v in payload[part].items()}


def test_the_frozen_parts_are_bitwise_unchanged_and_every_part_of_the_connector_moved(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[VLM] = []
    build = stage1.build_model
    monkeypatch.setattr(stage1, "build_model", lambda *a: kept.append(build(*a)) or kept[0])
    config = world.config("frozen")
    before = build(config, prepare_data(config).inputs)
    world.train("frozen")
    for part in ("tower", "llm"):
        old, new = getattr(before, part), getattr(kept[0], part)
        assert same(dict(old.state_dict()), dict(new.state_dict()))
    moved = {n: not torch.equal(a, kept[0].connector.state_dict()[n]) for n, a in before.connector.state_dict().items()}
    assert all(moved.values()), moved


@pytest.fixture(scope="module")
def pieces(world: TinyWorld) -> tuple[VLM, list[Sample]]:
    config = world.config("pieces")
    prepared = prepare_data(config)
    samples = [item for i in range(16) if isinstance(item := prepared.train[i], Sample)]
    return build_model(config, prepared.inputs), samples


def gradient_of(
    vlm: VLM, samples: list[Sample], size: int, window: list[list[int]]
) -> tuple[list[torch.Tensor], float]:
    """The gradient and loss of one window, run in forward passes of `size`."""
    batches = [
        collate([samples[p] for p in positions], 0)
        for positions in micro_batches(window, [len(s.ids_T) for s in samples], size)
    ]
    optimizer = torch.optim.SGD(vlm.connector.parameters(), lr=1e-12)
    result = update.update(vlm, optimizer, batches, Accelerator(cpu=True), clip=1e9, step=4)
    grads = [p.grad.clone() for p in vlm.connector.parameters() if p.grad is not None]
    return grads, result.nll / result.tokens


@pytest.mark.parametrize("size", [1, 4, 32])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_loss_and_gradient_of_a_window_do_not_depend_on_how_it_is_cut(
    pieces: tuple[VLM, list[Sample]], size: int, batch_size: int
) -> None:
    vlm, samples = pieces
    whole = collate(samples, 0)
    vlm.connector.zero_grad()
    visual = vlm.visual(vlm.features(whole))
    loss = vlm.nll(whole, VisualTokens((visual,))).nll_N.mean()
    expected = torch.autograd.grad(loss, list(vlm.connector.parameters()))
    window = [list(range(start, start + batch_size)) for start in range(0, 16, batch_size)]
    got, got_loss = gradient_of(vlm, samples, size, window)
    assert got_loss == pytest.approx(loss.item(), rel=1e-5)
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_runs_of_other_micro_batch_sizes_end_with_the_same_weights(world: TinyWorld, done: Path) -> None:
    for size in (1, 32):
        other = world.train(f"micro{size}", train__micro_batch_size=size)
        for name, value in flat(load_checkpoint(done)).items():
            # AdamW divides by the gradient's own size, so a rounding error of a tiny gradient grows with each step.
            assert torch.allclose(value, flat(load_checkpoint(other))[name], atol=2e-4), name


def test_cached_features_train_to_the_same_weights_as_images_read_again(world: TinyWorld, done: Path) -> None:
    uncached = world.train("uncached", data__cache_features="off")
    # Bit-equal where this was written, but a matrix product may round differently in a batch of another size, and
    # AdamW divides by the gradient's own size: hence a bound instead, far below the 0.015 that six updates can move.
    for name, value in flat(load_checkpoint(done)).items():
        assert torch.allclose(value, flat(load_checkpoint(uncached))[name], atol=2e-4), name


def test_the_cache_is_used_where_it_fits_and_the_tower_then_runs_once_per_image(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    for look in ("look_before", "look_after"):  # these run the tower, too
        monkeypatch.setattr(stage1, look, lambda run: [])
    monkeypatch.setattr(stage1, "_prepare_canary", lambda run: None)
    world.train("fits", data__cache_features="auto")
    assert sum(seen) == 22
    seen.clear()
    world.train("too_big", data__cache_features="auto", data__cache_gb=1e-9)
    assert sum(seen) == EPOCHS * 22


def test_an_unreadable_image_is_counted_and_named_and_the_steps_stay_the_same(
    world: TinyWorld, broken_image: int, capsys: pytest.CaptureFixture[str], done: Path
) -> None:
    for cache in ("on", "off"):
        last = world.train(f"broken_{cache}", data__cache_features=cache, data__max_rejected=0.1)
        err = capsys.readouterr().err
        assert steps_in(last.parent) == steps_in(done.parent), "nothing moves up into its place"
        records = log_of(last.parent)
        assert [r["samples"] for r in records] == [17, 17] and [sum(r["rejected"].values()) for r in records] == [1, 1]
        assert err.count(f"row {broken_image} is left out: ") == 1, "named once, not in each epoch"
        assert f"{broken_image:05d}.png" in err
    same_rows = [r["lengths"] for r in log_of(world.root / "broken_on")]
    assert same_rows == [r["lengths"] for r in log_of(world.root / "broken_off")]


@pytest.mark.parametrize("cache", ["on", "off"])
def test_too_many_unreadable_images_stop_the_run_with_an_example(
    world: TinyWorld, broken_image: int, cache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = world.config_file(f"many_{cache}", data__cache_features=cache, data__max_rejected=0)
    assert main(["--config", str(config), "--force"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert (
        "1 of 18 training rows are unusable (5.56%)" in err
        and "more than data.max_rejected 0:" in err
        and f"row {broken_image}: " in err
    )
    if cache == "on":
        assert not (world.root / "many_on").exists(), "known from the cache, before anything is written"


def test_an_unreadable_held_out_image_is_in_the_log_too(world: TinyWorld) -> None:
    row = prepare_data(world.config("x")).split.eval[0]
    path = world.image_root / "images" / f"{row:05d}.png"
    data = path.read_bytes()
    path.write_bytes(b"")
    try:
        last = world.train("held_out", data__max_rejected=0.5, train__epochs=1)
    finally:
        path.write_bytes(data)
    record = read_records_of_run(last.parent)[0]
    assert sum(record.eval_rejected.values()) == 1 and record.rejected == {}
    assert record.line(1).endswith(" | 1 rejected")


@pytest.fixture
def poisoned(world: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> int:
    """A training row whose features are not a number."""
    row = prepare_data(world.config("x")).split.train[5]
    read = CachedDataset.__getitem__

    def poison(self: CachedDataset, position: int) -> Any:
        item = read(self, position)
        if isinstance(item, Sample) and item.row == row and item.features_PV is not None:
            return replace(item, features_PV=item.features_PV * float("nan"))
        return item

    monkeypatch.setattr(CachedDataset, "__getitem__", poison)
    return row


def test_a_loss_that_is_not_finite_stops_before_the_optimizer_and_names_step_rows_and_first_tensor(
    world: TinyWorld, poisoned: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finite: list[bool] = []
    step = torch.optim.AdamW.step

    def checked(self: torch.optim.AdamW) -> None:
        finite.append(all(bool(torch.isfinite(p.grad).all()) for g in self.param_groups for p in g["params"]))
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", checked)
    config = world.config_file("nan")
    assert main(["--config", str(config)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    position = prepare_data(world.config("nan")).train.rows.index(poisoned)
    plan = plan_epoch(18, 0, 42, 4, 2)
    window = next(i for i, batches in enumerate(plan) if position in [p for b in batches for p in b])
    ends = sum(len(batches) for batches in plan[: window + 1])
    assert line.startswith(f"stopped: loss is not finite in the update ending at step {ends}, rows ")
    assert f"first bad tensor: tower features of row {poisoned}" in line
    assert str(poisoned) in line.split("rows ")[1].split(";")[0].split(", ")
    assert finite == [True] * window, "the optimizer saw the windows before, and never this one"
    assert steps_in(world.root / "nan") == []


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("parameter", r"loss is not finite .* first bad tensor: the connector's parameter resampler.latents"),
        ("losses", r"loss is not finite .* first bad tensor: token losses of row \d+"),
        ("gradient", r"gradient is not finite .* first bad tensor: none of the forward pass, so a gradient"),
    ],
)
def test_the_first_bad_tensor_is_named_wherever_it_is(
    pieces: tuple[VLM, list[Sample]], where: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm, samples = pieces
    latents = vlm.connector.resampler.latents
    kept = latents.detach().clone()
    if where == "parameter":
        latents.data[0, 0] = float("inf")
    elif where == "losses":
        nll = VLM.nll

        def overflow(self: VLM, batch: Any, visual: Any) -> Any:
            out = nll(self, batch, visual)
            return replace(out, nll_N=out.nll_N + torch.tensor([float("inf")]))

        monkeypatch.setattr(VLM, "nll", overflow)
    else:
        hook = latents.register_hook(lambda grad: grad * float("inf"))
    try:
        with pytest.raises(NonFiniteError, match=named):
            gradient_of(vlm, samples, 4, [[0, 1, 2, 3]])
    finally:
        latents.data.copy_(kept)
        if where == "gradient":
            hook.remove()


def test_clipping_bounds_the_norm_of_the_whole_gradient_and_the_log_shows_it_before(
    pieces: tuple[VLM, list[Sample]],
) -> None:
    vlm, samples = pieces
    batches = [collate(samples, 0)]
    optimizer = torch.optim.SGD(vlm.connector.parameters(), lr=1e-12)
    result = update.update(vlm, optimizer, batches, Accelerator(cpu=True), clip=0.5, step=4)
    squares = [p.grad.pow(2).sum() for p in vlm.connector.parameters() if p.grad is not None]
    assert float(sum(squares)) ** 0.5 == pytest.approx(0.5, rel=1e-4) and result.grad_norm > 0.5


def test_a_window_without_label_tokens_changes_nothing(pieces: tuple[VLM, list[Sample]]) -> None:
    vlm, samples = pieces
    silent = [replace(s, labels_T=s.labels_T * 0 - 100) for s in samples[:4]]
    before = {k: v.clone() for k, v in vlm.connector.state_dict().items()}
    optimizer = torch.optim.AdamW(vlm.connector.parameters(), lr=1.0)
    result = update.update(vlm, optimizer, [collate(silent, 0)], Accelerator(cpu=True), clip=1.0, step=4)
    assert (result.tokens, result.nll, result.stats.zero_label) == (0, 0.0, 4)
    assert same(before, dict(vlm.connector.state_dict()))


def test_retention_leaves_the_newest_and_the_milestones(world: TinyWorld) -> None:
    last = world.train("kept", train__save_every=1, train__keep_last=1, train__keep_every=5)
    assert steps_in(last.parent) == [5, 10]
    last = world.train("kept_two", train__save_every=1, train__keep_last=2)
    assert steps_in(last.parent) == [9, 10]


@pytest.mark.parametrize(
    ("accumulation", "save_every", "steps"),
    [(2, 1, [2, 4, 5, 7, 9, 10]), (2, 3, [4, 5, 7, 9, 10]), (4, 2, [4, 5, 9, 10]), (2, 100, [5, 10])],
)
def test_a_save_inside_an_accumulation_window_waits_for_its_end(
    world: TinyWorld, accumulation: int, save_every: int, steps: list[int]
) -> None:
    name = f"save_{accumulation}_{save_every}"
    last = world.train(name, train__save_every=save_every, train__accumulation=accumulation)
    assert steps_in(last.parent) == steps


def test_a_folder_with_a_run_is_refused_unless_told_what_to_do_with_it(
    world: TinyWorld, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in done.parent.iterdir()}
    config = str(world.config_file("done"))
    assert main(["--config", config]) == 2
    line = f"error: output_dir {done.parent} contains checkpoint_10.pt; continue with --resume, start again with "
    assert capsys.readouterr().err.startswith(line + "--overwrite")
    assert main(["--config", config, "--resume", "--overwrite"]) == 2
    assert "use only one of them" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in done.parent.iterdir()} == before


def test_overwrite_deletes_the_old_run_and_only_when_the_new_one_can_start(world: TinyWorld) -> None:
    first = world.train("again", train__save_every=1)
    for name in ("notes.txt", "checkpoint_best.pt", "tracker/mine.txt"):
        (first.parent / name).parent.mkdir(exist_ok=True)
        (first.parent / name).write_text("mine")
    with pytest.raises(ValueError, match=r"missing: data.json_file .*nowhere.json"):
        world.train("again", overwrite=True, data__json_file=str(world.root / "nowhere.json"))
    assert steps_in(first.parent) == [2, 4, 5, 7, 9, 10]
    world.train("again", overwrite=True, train__epochs=1)
    names = {path.name for path in first.parent.iterdir()}
    assert names == {"checkpoint_5.pt", "checkpoint_best.pt", "tracker", "notes.txt", *OF_A_RUN}
    assert [path.name for path in (first.parent / "tracker").iterdir()] == ["mine.txt"]
    assert len(log_of(first.parent)) == 1


def test_a_start_clears_half_written_files_and_the_log_of_a_run_that_never_saved(world: TinyWorld) -> None:
    folder = world.root / "stale"
    folder.mkdir()
    for name in (
        ".checkpoint_5.pt.abcdefgh",
        ".log.jsonl.a1b2c3d4.draft",
        ".split.json.abc_1234",
        ".run.json.abcdefgh",
    ):
        (folder / name).touch(0o600)
    (folder / ".notes.txt.old").write_text("mine")
    (folder / "log.jsonl").write_text((world.train("for_log", train__epochs=1).parent / "log.jsonl").read_text())
    world.train("stale", train__epochs=1)
    names = {path.name for path in folder.iterdir()}
    assert names == {".notes.txt.old", "checkpoint_5.pt", *OF_A_RUN}
    assert len(log_of(folder)) == 1


@pytest.mark.parametrize("entry", ["module", "qwen3-vlm"])
def test_the_command_line_trains_and_takes_overrides(
    world: TinyWorld, entry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(world.config_file("cli"))
    arguments = ["--config", config, "--overwrite", "--train.epochs", "1", "--data.cache-features=off"]
    assert (main(arguments) if entry == "module" else cli(["train", *arguments])) == 0
    assert steps_in(world.root / "cli") == [5]
    assert capsys.readouterr().out.splitlines()[-1].startswith("epoch 1/1 | step 5 | ")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"train__lrr": 1}, "unknown key `train.lrr`; did you mean `train.lr`?"),
        ({"data__json_file": "nowhere.json"}, "missing: data.json_file nowhere.json"),
        ({"model__llm": "no/such/folder"}, "model.llm: the folder no/such/folder does not exist"),
        ({"model__device": "cuda"}, "model.device: cuda was requested, but PyTorch finds no GPU"),
        ({"data__max_seq_len": 9}, "max_seq_len"),
        ({"data__max_samples": 1}, "cannot split 1 rows"),
    ],
)
def test_bad_input_is_one_line_and_exit_2_before_any_work(
    world: TinyWorld, changes: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "model__device" in changes and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    config = world.config_file("bad", **changes)
    assert main(["--config", str(config)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and line in err and err.count("\n") == 1
    assert not (world.root / "bad").exists(), "nothing is written"


def test_an_output_folder_that_cannot_be_made_is_one_line_and_exit_2(
    world: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.root / "file").write_text("")
    assert main(["--config", str(world.config_file("x")), "--output_dir", str(world.root / "file" / "run")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {world.root / 'file'}")


def test_a_full_disk_ends_with_exit_2_and_the_older_checkpoint_resumes(
    world: TinyWorld, done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(world.config_file("full"))
    save, calls = loop.save_checkpoint, []

    def full(path: Path, payload: dict[str, Any]) -> None:
        calls.append(path)
        with file_size_limit(20_000 if len(calls) == 2 else -1):
            save(path, payload)

    monkeypatch.setattr(loop, "save_checkpoint", full)
    assert main(["--config", config]) == 2
    err = capsys.readouterr().err
    assert f"checkpoint_{LAST_STEP}.pt: cannot write the checkpoint (" in err and "continue with --resume" in err
    assert steps_in(world.root / "full") == [STEPS_PER_EPOCH]
    assert main(["--config", config, "--resume"]) == 0
    assert same(weights_of(world.root / "full" / done.name), weights_of(done))


@pytest.mark.parametrize(
    ("stage", "target", "changes", "advice"),
    [
        ("training", "update", {}, "set train.micro_batch_size to 2 (it is 4)"),
        ("training", "update", {"train__micro_batch_size": 16}, "set train.micro_batch_size to 8 (it is 16)"),
        ("training", "update", {"train__micro_batch_size": 1}, "set model.precision to bf16"),
        ("evaluating", "evaluate", {}, "set ablation.batch_size to 8"),
        ("caching", "cache_features", {"data__cache_features": "on"}, "set data.cache_features to off"),
        ("loading", "build_model", {}, "set model.precision to bf16"),
    ],
)
def test_out_of_memory_says_which_setting_would_fit(
    world: TinyWorld,
    stage: str,
    target: str,
    changes: dict[str, Any],
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    room = loop if target in ("update", "evaluate") else stage1
    monkeypatch.setattr(room, target, full)
    assert main(["--config", str(world.config_file("oom", **changes)), "--overwrite"]) == 2
    err = capsys.readouterr().err
    assert f"error: out of memory while {stage} (CUDA out of memory. Tried to allocate 2.00 GiB.): {advice}" in err


def test_the_log_is_read_back_as_written_and_a_broken_line_is_named(tmp_path: Path) -> None:
    base = {"updates": 1, "train_loss": 1.0, "eval_loss": None, "samples": 1, "truncated": 0, "zero_label": 0}
    base |= {"label_tokens": 1, "truncated_pct": 0.0, "zero_label_pct": 0.0, "avg_label_tokens": 1.0}
    base |= {"learning_rate": 1.0, "grad_norm": 1.0, "seconds": 1.0, "samples_per_second": 1.0, "peak_memory_gb": 1.0}
    records = [EpochRecord(epoch=e, step=5 * e, lengths={7: 1}, **base) for e in (1, 2, 3)]
    for record in records:
        append_record(tmp_path, record)
    assert read_records_of_run(tmp_path) == records and "| eval - |" in records[0].line(3)
    forget_records(tmp_path, after=10)
    assert read_records_of_run(tmp_path) == records[:2]
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text() + '{"epoch": 3}\n')
    with pytest.raises(ValueError, match=r"log.jsonl, line 3: not an epoch record"):
        read_records_of_run(tmp_path)
