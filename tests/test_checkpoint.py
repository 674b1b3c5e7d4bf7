"""Checkpoints: written whole or not at all, read without running code, refused in one line."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from eyechart import files
from qwen3_vlm.commands.loaded import load
from qwen3_vlm.models.connector import Connector, ConnectorShape
from qwen3_vlm.train.checkpoint import (
    connector_state,
    find_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    restore_connector,
    save_checkpoint,
    stored_config,
)
from tiny_runs import TinyWorld, file_size_limit, make_world, same


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained(world: TinyWorld) -> Path:
    return world.train("run", train__epochs=1)


def make_connector(seed: int = 0, **options: Any) -> Connector:
    torch.manual_seed(seed)
    return Connector(ConnectorShape(6, 8, 4, 3, 1, 2, 4, 1, **options))


def payload_of(connector: Connector, **more: Any) -> dict[str, Any]:
    return {**connector_state(connector), "step": 3, **more}


@pytest.mark.parametrize("options", [{}, {"vision_ln": True, "key_positions": True}], ids=["plain", "all options"])
def test_a_saved_connector_comes_back_bit_for_bit(tmp_path: Path, options: dict[str, bool]) -> None:
    path = tmp_path / "checkpoint_3.pt"
    there, back = make_connector(0, **options), make_connector(1, **options)
    save_checkpoint(path, payload_of(there))
    restore_connector(back, load_checkpoint(path), path)
    assert same(there.state_dict(), back.state_dict())
    assert [*tmp_path.iterdir()] == [path] and path.stat().st_mode & 0o777 == 0o644


def test_a_checkpoint_of_a_run_describes_itself(trained: Path, world: TinyWorld) -> None:
    payload = load_checkpoint(trained)
    assert set(payload) == {
        *("resampler", "projector", "step", "updates", "progress", "optimizer", "rng"),
        *("config", "config_hash", "backbones", "data", "versions", "evidence", "run"),
    }
    config = world.config("run", train__epochs=1)
    assert stored_config(trained) == config and payload["config_hash"] == config.fingerprint()
    assert payload["backbones"]["llm"]["name"] == str(world.root / "llm")
    assert payload["step"] == 5 and payload["versions"]["torch"] == torch.__version__


def test_a_stored_config_takes_overrides_and_names_the_checkpoint_in_errors(trained: Path) -> None:
    assert stored_config(trained, ["--ablation.derangements", "1"]).ablation.derangements == 1
    with pytest.raises(ValueError, match=r"checkpoint_5.pt \(its stored config\).*did you mean `train.lr`"):
        stored_config(trained, ["--train.lrr", "1"])


class Runs:
    """A pickle that would create a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("how", ["torch", "pickle", "inside"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, how: str) -> None:
    path, witness = tmp_path / "checkpoint_1.pt", tmp_path / "ran"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Runs(witness)))
    else:
        evil = Runs(witness)
        torch.save(evil if how == "torch" else payload_of(make_connector(), optimizer=evil), path)
    with pytest.raises(ValueError, match=r"checkpoint_1.pt: (rejected because it contains more|not a readable)"):
        load_checkpoint(path)
    assert not witness.exists()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_projector(path: Path) -> None:
    payload = torch.load(path, weights_only=True)
    del payload["projector"]
    torch.save(payload, path)


def crossed_out(path: Path) -> None:
    """Damage inside one of the zip's members, headers intact."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        offset = next(i.header_offset for i in archive.infolist() if i.filename.endswith("data.pkl"))
    data[offset + 100 : offset + 400] = b"\xff" * 300
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), r"no such checkpoint; in .*: checkpoint_9.pt"),
        (truncated, r"not a readable checkpoint .* \d+ bytes, perhaps truncated; use an older checkpoint"),
        (lambda p: p.write_bytes(b""), r"not a readable checkpoint .* 0 bytes"),
        (lambda p: p.write_bytes(b"garbage " * 99), r"rejected.*or it is damaged|not a readable checkpoint"),
        (crossed_out, r"the file is damaged: its part .*data.pkl does not match its checksum"),
        (without_projector, r"expected `resampler` and `projector` in the checkpoint, got resampler, step"),
        (lambda p: torch.save([1, 2], p), r"expected `resampler` and `projector` in the checkpoint, got list"),
        (lambda p: torch.save({}, p), r"expected `resampler` and `projector` in the checkpoint, got nothing"),
    ],
    ids=["missing", "truncated", "empty", "garbage", "damaged inside", "no projector", "list", "empty dict"],
)
def test_an_unreadable_checkpoint_is_one_line_with_its_name(tmp_path: Path, damage: Any, message: str) -> None:
    path = tmp_path / "checkpoint_3.pt"
    save_checkpoint(path, payload_of(make_connector()))
    save_checkpoint(tmp_path / "checkpoint_9.pt", payload_of(make_connector()))
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"step": "3"}, r"expected `step` to be int, got str"),
        ({"backbones": [1]}, r"expected `backbones` to be dict, got list"),
        ({"config": 3}, r"expected `config` to be str, got int"),
        ({"config": "a: [1"}, r"its stored config is not YAML"),
        ({"config": "words"}, r"its stored config is str, expected a mapping"),
        ({"config": "trian: {}"}, r"stored config\): unknown key `trian`"),
    ],
    ids=str,
)
def test_a_checkpoint_with_odd_contents_is_one_line(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    path = tmp_path / "checkpoint_3.pt"
    save_checkpoint(path, payload_of(make_connector()) | more)
    with pytest.raises(ValueError, match=message):
        stored_config(path)


@pytest.mark.parametrize("step", range(60, 4000, 657))
def test_every_truncation_is_refused(tmp_path: Path, step: int) -> None:
    path = tmp_path / "checkpoint_3.pt"
    save_checkpoint(path, payload_of(make_connector()))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - step])
    with pytest.raises(ValueError, match="not a readable checkpoint|refused"):
        load_checkpoint(path)


def test_tensors_that_do_not_fit_are_refused_with_both_shapes_and_nothing_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_3.pt"
    connector = make_connector()
    before = {k: v.clone() for k, v in connector.state_dict().items()}

    def refuse(change: Any, message: str) -> None:
        payload = payload_of(make_connector(1))
        change(payload)
        with pytest.raises(ValueError, match=message):
            restore_connector(connector, payload, path)
        assert same(before, dict(connector.state_dict()))

    refuse(
        lambda p: p["resampler"].update(latents=torch.zeros(5, 8)),
        r"`resampler.latents` has shape \(5, 8\) in the checkpoint, \(3, 8\) by the config",
    )
    refuse(lambda p: p["projector"].update({"net.0.bias": 3}), r"`projector.net.0.bias` has shape int")
    refuse(lambda p: p["resampler"].pop("latents"), r"the checkpoint lacks `resampler.latents`")
    refuse(lambda p: p["projector"].update(extra=torch.zeros(1)), r"has an unexpected `projector.extra`")
    refuse(
        lambda p: p["projector"]["net.2.bias"].__setitem__(slice(0, 2), float("nan")),
        r"`projector.net.2.bias` contains 2 values that are NaN or infinite",
    )
    refuse(
        lambda p: p.update(vision_ln={}), r"the checkpoint has `vision_ln`, the config does not; .*connector.vision_ln"
    )
    with pytest.raises(ValueError, match=r"the config has `vision_ln`, the checkpoint does not"):
        restore_connector(make_connector(vision_ln=True), payload_of(make_connector()), path)


def test_a_checkpoint_of_the_older_form_loads_and_captions_but_has_no_config_of_its_own(
    trained: Path, world: TinyWorld, tmp_path: Path
) -> None:
    payload = load_checkpoint(trained)
    path = tmp_path / "checkpoint_77.pt"
    torch.save({part: payload[part] for part in ("resampler", "projector")}, path)
    old = load(path, world.config("run"))
    assert same(connector_state(old.vlm.connector), connector_state(load(trained).vlm.connector))
    images = [world.image_root / "images" / f"{row:05d}.png" for row in (0, 1)]
    assert old.step == 0 and old.caption(images) == load(trained).caption(images)
    with pytest.raises(ValueError, match=r"older format, which contains no config; set --config"):
        load(path)


def test_a_checkpoint_of_other_backbones_is_refused_with_both_identities(trained: Path, world: TinyWorld) -> None:
    tower = world.root / "vision" / "model.safetensors"
    data = tower.read_bytes()
    changed = bytearray(data)
    changed[-400:] = bytes(400)
    tower.write_bytes(bytes(changed))
    try:
        both = r"trained with another model.vision: .*width 24, \w{32}\) against .*width 24.*\d of \d+ weights differ"
        with pytest.raises(ValueError, match=both):
            load(trained)
        with pytest.raises(ValueError, match=r"trained with another model.vision"):
            world.train("run", resume=True, train__epochs=1)
    finally:
        tower.write_bytes(data)


@pytest.mark.parametrize("size", [0, 100, 3000, 200_000])
def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, size: int) -> None:
    path = tmp_path / "checkpoint_3.pt"
    save_checkpoint(path, payload_of(make_connector(0)))
    before = path.read_bytes()
    with (
        file_size_limit(size),
        pytest.raises(
            ValueError, match=r"cannot write the checkpoint \(.+\); [\d.]+ GB free in .*Older checkpoints are"
        ),
    ):
        save_checkpoint(path, payload_of(make_connector(1), filler=torch.zeros(100_000)))
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def test_an_interrupt_during_a_save_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint_3.pt"
    save_checkpoint(path, payload_of(make_connector(0)))
    before = path.read_bytes()

    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, payload_of(make_connector(1)))
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def touch(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / f"checkpoint_{step}.pt").touch()


def steps_in(folder: Path) -> list[int]:
    return [int(path.stem.split("_")[1]) for path in find_checkpoints(folder)]


def test_checkpoints_are_found_by_step_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    touch(tmp_path, 10, 9, 100)
    for name in ("checkpoint_x.pt", "checkpoint_3.pt.bak", ".checkpoint_4.pt.abc", "checkpoint_best.pt"):
        (tmp_path / name).touch()
    assert steps_in(tmp_path) == [9, 10, 100]


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "left"),
    [
        (None, None, [4, 8, 12, 16, 20, 24]),
        (1, None, [24]),
        (2, None, [20, 24]),
        (9, None, [4, 8, 12, 16, 20, 24]),
        (1, 8, [8, 16, 24]),
        (1, 10, [12, 20, 24]),
        (2, 100, [20, 24]),
    ],
)
def test_retention_keeps_the_newest_and_the_milestones(
    tmp_path: Path, keep_last: int | None, keep_every: int | None, left: list[int]
) -> None:
    touch(tmp_path, 4, 8, 12, 16, 20, 24)
    prune_checkpoints(tmp_path, keep_last, keep_every)
    assert steps_in(tmp_path) == left
    prune_checkpoints(tmp_path, keep_last, keep_every)
    assert steps_in(tmp_path) == left, "pruning again changes nothing"


def test_retention_after_every_save_keeps_what_retention_at_the_end_would(tmp_path: Path) -> None:
    for step in (4, 8, 12, 16, 20, 24):
        touch(tmp_path, step)
        prune_checkpoints(tmp_path, 1, 10)
    assert steps_in(tmp_path) == [12, 20, 24]
