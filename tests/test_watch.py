"""Faults that show while training stop the run by name, and what a run wrote down about its faults is read back."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eyechart.exits import FaultsFoundError, NamedInputError, NonFiniteError
from eyechart.faults.learning_rate import typical_size
from eyechart.faults.pairing import Association, Pairing
from eyechart.faults.table import finding
from eyechart.results import Look, Standing
from eyechart.scoring.batching import collate
from qwen3_vlm.build import build_model, prepare_data
from qwen3_vlm.commands.loaded import load
from qwen3_vlm.commands.scoring import training_of_run
from qwen3_vlm.config import Config
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight import Preflight
from qwen3_vlm.train import findings_log, judging, loop, readiness, watch
from qwen3_vlm.train.checkpoint import load_checkpoint, save_checkpoint
from qwen3_vlm.train.features import CachedDataset, cache_features
from qwen3_vlm.train.looks import append_look
from qwen3_vlm.train.stage1_align import main
from qwen3_vlm.train.untrained import all_rivals
from qwen3_vlm.train.watch import Watch
from tiny_models import make_batch, make_vlm
from tiny_runs import TinyWorld, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


def train_a_little(vlm: Any, watched: Watch, parameters: Any, updates: int = 3, decay: float = 0.0) -> list[str]:
    """Codes of what the watch finds in a few updates."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=decay)
    batch, found = make_batch([[9, 10], [11]]), []
    for _ in range(updates):
        optimizer.zero_grad()
        vlm.nll(batch, loop_visual(vlm, batch)).nll_N.sum().backward()
        for parameter in vlm.connector.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        optimizer.step()
        found += watched.after_update(1.0, 1e-3)
    return [f.code for f in found]


def loop_visual(vlm: Any, batch: Any) -> Any:
    from eyechart.seam import VisualTokens

    return VisualTokens((vlm.visual(vlm.features(batch)),))


def test_a_connector_that_moves_is_sound() -> None:
    vlm = make_vlm(vision_ln=True, key_positions=True)
    assert train_a_little(vlm, Watch(vlm, 1e-3), vlm.connector.parameters(), decay=0.01) == []


def test_parameters_that_weight_decay_alone_has_moved_are_named() -> None:
    vlm = make_vlm()
    watched = Watch(vlm, 1e-3)
    vlm.connector.resampler.latents.register_hook(torch.zeros_like)
    assert train_a_little(vlm, watched, vlm.connector.parameters(), decay=0.1) == ["no-gradient"]


def test_parameters_that_the_optimizer_does_not_have_are_named() -> None:
    vlm = make_vlm()
    watched = Watch(vlm, 1e-3)
    assert train_a_little(vlm, watched, vlm.connector.projector.parameters()) == ["no-gradient"]


def test_weights_that_do_not_move_because_the_rate_is_lost_in_rounding_are_named_by_the_rate() -> None:
    vlm = make_vlm(vision_ln=True)
    slow = Watch(vlm, 1e-9)
    assert [f.code for _ in range(3) for f in slow.after_update(1.0, 1e-9)] == ["learning-rate-too-low"]
    without_gradient = Watch(vlm, 1e-9)
    assert [f.code for _ in range(3) for f in without_gradient.after_update(0.0, 1e-9)] == ["no-gradient"]
    zero = Watch(vlm, 1e-3)
    assert [f.code for _ in range(3) for f in zero.after_update(1.0, 1e-3)] == ["no-gradient"], "a sound rate"


def test_a_rate_far_above_the_configs_is_named_when_it_is_first_used() -> None:
    vlm = make_vlm()
    watched, size = Watch(vlm, 1e-3), typical_size(dict(vlm.connector.named_parameters()))
    assert size is not None
    found = [[(f.code, f.severity) for f in watched.after_update(1.0, rate * size)] for rate in (1e-3, 0.6, 0.7, 9, 9)]
    name = "learning-rate-too-high"
    assert found == [[], [(name, "warning")], [("no-gradient", "error")], [(name, "error")], []]


def test_updates_at_the_end_of_a_schedule_are_not_expected_to_move_anything() -> None:
    vlm = make_vlm()
    watched = Watch(vlm, 1e-3)
    assert [watched.after_update(1.0, 1e-8) for _ in range(5)] == [[]] * 5


def test_a_frozen_part_that_moves_is_named_once() -> None:
    vlm = make_vlm()
    watched = Watch(vlm, 1e-3)
    assert watched.after_epoch() == []
    vlm.tower.model.embeddings.patch_embedding.weight.data.mul_(1.01)
    assert [(f.code, f.evidence["part"]) for f in watched.after_epoch()] == [("frozen-moved", "vision tower")]
    assert watched.after_epoch() == []


def test_an_optimizer_with_too_few_or_too_many_parameters_is_named() -> None:
    vlm = make_vlm()
    own, llm = list(vlm.connector.parameters()), list(vlm.llm.parameters())

    def codes(parameters: Any) -> list[str]:
        return [f.code for f in readiness.optimizer_findings(vlm, torch.optim.SGD(parameters, lr=1.0))]

    assert codes(own) == []
    assert codes(own[1:]) == ["no-gradient"]
    assert codes(own + llm[:1]) == ["frozen-moved"]


def test_gradients_that_zero_grad_leaves_are_named_and_nothing_stays_behind() -> None:
    vlm = make_vlm()
    optimizer = torch.optim.SGD(vlm.connector.parameters(), lr=1.0)
    assert readiness.optimizer_findings(vlm, optimizer) == []
    optimizer.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]
    (found,) = readiness.optimizer_findings(vlm, optimizer)
    assert (found.code, found.severity) == ("gradients-kept", "error")
    assert all(parameter.grad is None for parameter in vlm.connector.parameters())


def test_cached_features_of_other_images_are_named(world: TinyWorld, tmp_path: Path) -> None:
    config = world.config("cache")
    prepared = prepare_data(config)
    vlm = build_model(config, prepared.inputs)
    cached = cache_features(vlm, prepared.train, "training", tmp_path)
    assert readiness.cache_findings(vlm, cached, prepared.train) == []
    moved = copy.copy(cached)
    moved.features_NPV = torch.as_tensor(cached.features_NPV).roll(1, 0)  # type: ignore[assignment]
    assert isinstance(moved, CachedDataset)
    found = readiness.cache_findings(vlm, moved, prepared.train)
    assert found[0].code == "image-order"
    moved.features_NPV = torch.as_tensor(cached.features_NPV).round()  # type: ignore[assignment]
    assert readiness.cache_findings(vlm, moved, prepared.train)[0].code == "features-altered"
    moved.features_NPV = torch.as_tensor(cached.features_NPV).mean(0, keepdim=True).expand_as(cached.features_NPV)
    assert readiness.cache_findings(vlm, moved, prepared.train)[0].code == "pixels-unused"


def about_to_start(config: Config) -> Any:
    """What the checks before the first update read of a run."""
    prepared = prepare_data(config)
    vlm = build_model(config, prepared.inputs)
    return SimpleNamespace(
        accelerator=SimpleNamespace(is_main_process=True),
        **{"config": config, "prepared": prepared, "train_set": prepared.train, "vlm": vlm},
        optimizer=torch.optim.SGD(vlm.connector.parameters(), lr=1.0),
        plan=lambda epoch: [[list(range(len(prepared.train)))]],
    )


def test_a_rate_of_the_config_that_replaces_the_weights_is_named_before_the_first_update(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "preflight", lambda *_, **__: Preflight([], None, 256, 4))
    found = {rate: judging.look_before(about_to_start(world.config("rate", train__lr=rate))) for rate in (2e-3, 3.0)}
    assert [(f.code, f.severity) for f in found[3.0]] == [("learning-rate-too-high", "error")] and found[2e-3] == []


def test_training_captions_that_do_not_go_with_their_images_stop_a_run_where_the_held_out_ones_do(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = about_to_start(world.config("pairing"))

    def codes(train: float, held_out: float) -> list[tuple[str, str]]:
        pairing = Pairing(Association(128, train), Association(128, held_out))
        monkeypatch.setattr(judging, "preflight", lambda *_, **__: Preflight([], None, 256, 4, pairing))
        return [(f.code, f.severity) for f in judging.look_before(run)]

    assert codes(0.3, 30.0) == [("pairs-mismatched", "error")]
    assert codes(0.3, 0.2) == [("pairs-mismatched", "warning")], "captions may say what this tower does not see"
    assert codes(20.0, 30.0) == []


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ([[[0, 1], [2, 3]], [[4, 5]]], None),
        ([[[5, 3], [0, 1]], [[2, 4]]], None),
        ([[[0, 1], [0, 1]], [[0, 1]]], "reads 2 of 6 training rows, and 2 of them more than once"),
        ([[[0, 1], [2, 3]]], "reads 4 of 6 training rows, and 0 of them more than once"),
    ],
    ids=["in order", "in another order", "one third thrice", "two left out"],
)
def test_an_epoch_that_does_not_read_every_row_once_is_named(plan: Any, said: str | None) -> None:
    found = readiness.order_findings(6, plan)
    assert [(f.code, f.severity) for f in found] == ([("under-trained", "error")] if said else [])
    assert all(said in f.message for f in found if said)


# --- what is written down -------------------------------------------------------------------------------------------


def test_findings_are_read_back_with_what_was_forced_and_forgotten_behind_a_step(tmp_path: Path) -> None:
    assert findings_log.read_findings(tmp_path) == []
    error, note = finding("no-labels", "m", "f", rows=3), finding("under-trained", "m", "f")
    findings_log.write_findings(tmp_path, [error, note], 0, forced=True)
    findings_log.write_findings(tmp_path, [finding("frozen-moved", "m", "f")], 8)
    assert [f.code for f in findings_log.read_findings(tmp_path)] == ["no-labels", "under-trained", "frozen-moved"]
    assert findings_log.read_findings(tmp_path)[0] == error
    assert findings_log.read_forced(tmp_path) == ["no-labels"]
    findings_log.forget_findings(tmp_path, 5)
    assert [f.code for f in findings_log.read_findings(tmp_path)] == ["no-labels", "under-trained"]
    assert findings_log.read_forced(tmp_path) == ["no-labels"]


def test_a_broken_line_of_findings_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / findings_log.FINDINGS_NAME).write_text("{}\n")
    with pytest.raises(ValueError, match="line 1: not a finding"):
        findings_log.read_findings(tmp_path)


# --- whole runs -----------------------------------------------------------------------------------------------------


def test_an_error_of_the_preflight_stops_a_run_before_it_writes_anything(
    world: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    path = world.config_file("stopped", data__max_seq_len=18)
    assert main(["--config", str(path)]) == 1
    err = capsys.readouterr().err
    assert "stopped: answer-truncated: " in err and "docs/faults/answer-truncated.md" in err and "--force" in err
    assert not (world.root / "stopped").exists()


def test_force_goes_on_and_the_results_say_so(world: TinyWorld) -> None:
    last = world.train("forced", force=True, data__max_seq_len=18, train__epochs=1)
    assert findings_log.read_forced(last.parent) == ["answer-truncated"]
    training = training_of_run(load(last), prepare_data(world.config("forced", data__max_seq_len=18)), last.parent)
    assert training is not None and training.forced == ["answer-truncated"]


def test_a_connector_that_does_not_move_stops_the_run(world: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    with pytest.raises(FaultsFoundError, match="no-gradient") as stopped:
        world.train("still")
    assert [f.code for f in stopped.value.findings] == ["no-gradient"]
    assert "no-gradient" in [f.code for f in findings_log.read_findings(world.root / "still")]


def test_a_frozen_part_that_moves_stops_the_run(world: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    update = loop.update

    def moving(vlm: Any, *rest: Any, **named: Any) -> Any:
        vlm.llm.model.lm_head.weight.data.add_(0.01)
        return update(vlm, *rest, **named)

    monkeypatch.setattr(loop, "update", moving)
    with pytest.raises(FaultsFoundError, match="frozen-moved"):
        world.train("moving")


def test_a_value_that_is_not_finite_is_written_down(world: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    update = loop.update

    def spoilt(vlm: Any, optimizer: Any, batches: Any, *rest: Any, **named: Any) -> Any:
        return update(
            vlm, optimizer, [replace(b, features_BPV=b.features_BPV * float("nan")) for b in batches], *rest, **named
        )

    monkeypatch.setattr(loop, "update", spoilt)
    with pytest.raises(NonFiniteError):
        world.train("nan")
    found = [f for f in findings_log.read_findings(world.root / "nan") if f.code == "non-finite"]
    assert found[0].evidence["step"] == 2 and "tower features" in found[0].message and "model.vision" in found[0].fix


# --- the end of a run -----------------------------------------------------------------------------------------------


NO, YES, OPEN = "ruled out", "costs", "open"


def looks(*shuffled: Standing, zero: Standing = NO, losses: tuple[float, ...] = ()) -> list[Look]:
    """At steps 0, 10, 20 ..., with gaps of 1 that must not be judged."""
    return [
        Look(step=10 * i, correct=losses[i] if losses else 1.0, gap_shuffled=1.0, gap_zero=1.0, shuffled=s, zero=zero)
        for i, s in enumerate(shuffled)
    ]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (looks(NO, NO, YES), []),
        (looks(NO, NO), []),
        (looks(NO, OPEN, NO), []),
        (looks(NO, NO, OPEN), []),
        (looks(NO, NO, NO, zero=OPEN), []),
        ([*looks(NO, NO, zero=YES), *looks(NO, NO, NO)[2:]], []),
        (looks(NO, NO, NO), [("under-trained", "note")]),
        (looks(YES, NO, NO), [("under-trained", "note")]),
        (looks(NO, NO, NO, zero=YES), [("constant-prompt", "warning")]),
    ],
    ids=[
        *("opened", "too few looks", "open before", "open at last", "zeros open", "zeros now so, now so"),
        *("never opened", "closed again", "zeros cost"),
    ],
)
def test_a_gap_that_never_opens_is_named_by_standings_alone(seen: list[Look], expected: list[tuple[str, str]]) -> None:
    found = watch.end_findings(make_vlm(), [], 0, seen)  # type: ignore[arg-type]
    assert [(f.code, f.severity) for f in found] == expected


@pytest.mark.parametrize("zero", [NO, YES])
def test_nobody_is_told_to_train_longer_where_the_held_out_loss_rises(zero: Standing) -> None:
    falling, rising = (
        watch.never_opened(looks(NO, NO, NO, zero=zero, losses=losses), lambda: True)[0].fix
        for losses in ((3.0, 2.5, 2.4), (3.0, 2.4, 2.5))
    )
    assert falling.endswith("then train longer or with a higher train.lr")
    assert (
        rising.endswith("has not fallen since step 10 (2.400 there, 2.500 at step 20)") and "train longer" not in rising
    )


@pytest.mark.parametrize(("learnt", "code"), [(True, "constant-prompt"), (False, "under-trained")])
def test_a_constant_prompt_has_to_beat_fresh_connectors(learnt: bool, code: str) -> None:
    (found,) = watch.never_opened(looks(NO, NO, NO, zero=YES), lambda: learnt)
    assert found.code == code


def test_a_connector_as_it_was_at_the_start_does_not_beat_fresh_ones(world: TinyWorld) -> None:
    config = world.config("start")
    prepared = prepare_data(config)
    vlm = build_model(config, prepared.inputs)
    batch = collate([prepared.eval[p] for p in range(len(prepared.eval))], prepared.inputs.pad_id)
    assert not watch.beats_fresh(vlm, batch, config.seed)
    rivals = all_rivals(vlm, batch, prepared.train, prepared.inputs.pad_id, config.seed)
    assert rivals is not None and rivals.fresh[0].gap == pytest.approx(0, abs=1e-6), "the run's own start is the first"
    assert rivals.average is not None


@pytest.mark.parametrize(
    ("shuffled", "step", "said"),
    [
        ((NO, NO, NO), 40, True),
        ((NO, NO, NO), 20, False),
        ((NO, NO, NO), 80, False),
        ((NO, NO, OPEN), 40, False),
        ((NO, YES, YES), 40, False),
    ],
    ids=["closed past half", "too early to tell", "the end has its own word", "undecided", "open"],
)
def test_a_gap_that_is_still_closed_past_half_of_a_run_is_said_at_once(
    shuffled: tuple[Standing, ...], step: int, said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for look in looks(*shuffled):
        append_look(tmp_path, look)
    run = SimpleNamespace(folder=tmp_path, step=step, looking=SimpleNamespace(steps=[10, 20, 40, 80]))
    judging.watch_look(run)  # type: ignore[arg-type]
    assert ("so far note under-trained" in capsys.readouterr().err) == said


@pytest.mark.parametrize(
    ("helped", "named"),
    [
        ((0.5, 0.4, 0.6, 0.5), False),
        ((0.0, 0.0, 0.0, 0.0), True),
        ((-0.5, -0.4, -0.6, -0.5), True),
        ((-0.5, 0.4, -0.6, 0.5), False),
        ((-0.1, 0.0, -0.2, 0.0), False),
    ],
    ids=["images help", "no difference at all", "images harm", "undecided", "a little worse, by chance"],
)
def test_images_that_surely_do_not_help_at_the_end_are_named(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch, helped: tuple[float, ...], named: bool
) -> None:
    prepared = prepare_data(world.config("plateau"))
    vlm = build_model(world.config("plateau"), prepared.inputs)
    nll = VLM.nll

    def made_up(self: Any, batch: Any, visual: Any) -> Any:
        """A loss of 1 for every token of the text alone; each sample is helped by its own amount."""
        made = nll(self, batch, visual)
        by_B = torch.zeros(len(batch)) if visual is None else torch.tensor(helped)
        return replace(made, nll_N=1 - by_B.repeat_interleave(made.counts_B))

    monkeypatch.setattr(VLM, "nll", made_up)
    found = watch.end_findings(vlm, prepared.eval, prepared.inputs.pad_id, [])
    assert [f.code for f in found] == (["under-trained"] if named else [])


def test_a_loss_that_is_not_finite_at_the_end_is_no_plateau(world: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare_data(world.config("plateau"))
    vlm = build_model(world.config("plateau"), prepared.inputs)
    nll = VLM.nll

    def spoilt(self: Any, batch: Any, visual: Any) -> Any:
        made = nll(self, batch, visual)
        return made if visual is None else replace(made, nll_N=made.nll_N * float("nan"))

    monkeypatch.setattr(VLM, "nll", spoilt)
    assert watch.end_findings(vlm, prepared.eval, prepared.inputs.pad_id, []) == []


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halfway(world: TinyWorld) -> Path:
    """The checkpoint after the first epoch of two."""
    return world.train("halfway").parent / "checkpoint_5.pt"


def spoil(payload: dict[str, Any], what: str) -> None:
    if what == "averages":
        payload["optimizer"]["state"][0].pop("exp_avg")
    elif what == "no optimizer state":
        payload["optimizer"]["state"] = {}
    elif what == "optimizer steps":
        payload["optimizer"]["state"][0]["step"] += 1
    elif what == "learning rate":
        payload["optimizer"]["param_groups"][0]["lr"] *= 1.5
    elif what == "updates":
        payload["updates"] += 1
    elif what == "data":
        payload["data"]["training rows"] = "0" * 16
    elif what == "order":
        payload["data"]["order of the epoch"] = "0" * 16


@pytest.mark.parametrize(
    "what", ["averages", "no optimizer state", "optimizer steps", "learning rate", "updates", "data", "order"]
)
def test_a_checkpoint_that_would_go_on_differently_is_refused(world: TinyWorld, halfway: Path, what: str) -> None:
    payload = load_checkpoint(halfway)
    spoil(payload, what)
    folder = world.root / f"drift {what}"
    folder.mkdir()
    (folder / "split.json").write_bytes((halfway.parent / "split.json").read_bytes())
    save_checkpoint(folder / "checkpoint_5.pt", payload)
    with pytest.raises(ValueError) as refused:
        world.train(f"drift {what}", resume=True)
    assert isinstance(refused.value, NamedInputError) and refused.value.code == "resume-drift", str(refused.value)


def test_a_checkpoint_that_goes_on_as_it_was_is_accepted(world: TinyWorld, halfway: Path) -> None:
    folder = world.root / "goes on"
    folder.mkdir()
    (folder / "split.json").write_bytes((halfway.parent / "split.json").read_bytes())
    (folder / "checkpoint_5.pt").write_bytes(halfway.read_bytes())
    assert world.train("goes on", resume=True).name == "checkpoint_10.pt"
