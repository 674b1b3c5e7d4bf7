"""Room for the checkpoints of a run is known before it starts, from the same rules that save and delete them."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from qwen3_vlm.config import TrainConfig
from qwen3_vlm.train.checkpoint import kept_steps
from qwen3_vlm.train.disk import checkpoint_bytes, checkpoint_steps, require_space
from tiny_runs import TinyWorld, make_world

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(
    "settings",
    [{}, {"save_every": 1}, {"save_every": 3}, {"save_every": 2, "keep_last": 1, "keep_every": 4}],
    ids=str,
)
def test_the_steps_and_sizes_are_those_of_a_run(world: TinyWorld, settings: dict[str, int]) -> None:
    changes = {f"train__{key}": value for key, value in settings.items()}
    name = "run" + "".join(f"_{key}_{value}" for key, value in settings.items())
    folder = world.train(name, **changes).parent
    train = world.config(name, **changes).train
    found = {int(path.stem.split("_")[1]): path.stat().st_size for path in folder.glob("checkpoint_*.pt")}
    assert kept_steps(checkpoint_steps(train, 18), train.keep_last, train.keep_every) == sorted(found)
    payload = torch.load(folder / f"checkpoint_{max(found)}.pt", weights_only=True)
    parameters = sum(value.numel() for part in ("resampler", "projector") for value in payload[part].values())
    assert all(0 < size - checkpoint_bytes(parameters) < 60_000 for size in found.values()), found


def test_the_trial_saves_three_checkpoints_of_a_gigabyte() -> None:
    assert checkpoint_steps(TrainConfig(), 4900) == [1225, 2450, 3675]
    assert checkpoint_bytes(82_445_824) == 989_349_888


@pytest.mark.parametrize(
    ("settings", "there", "overwrite", "needed"),
    [
        ({}, [], False, 3),
        ({}, [1225], False, 2),
        ({}, [1225, 2450, 3675], False, 0),
        ({"keep_last": 1}, [], False, 2),
        ({"keep_last": 1, "keep_every": 1000}, [], False, 4),
        ({}, [1225], True, 3),
    ],
    ids=str,
)
def test_what_is_still_to_come_is_compared_with_what_is_free(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, int],
    there: list[int],
    overwrite: bool,
    needed: int,
) -> None:
    folder = tmp_path / "new" / "run"
    for step in there:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"checkpoint_{step}.pt").write_bytes(b"x" * 5000)
    train = TrainConfig(**settings)
    exactly = needed * 12_000_000 - 5000 * len(there) * overwrite
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, exactly))
    require_space(folder, train, 4900, 1_000_000, overwrite)
    if needed:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, exactly - 1))
        with pytest.raises(ValueError, match=rf"{needed} checkpoints of .* GB need .*free some space, name"):
            require_space(folder, train, 4900, 1_000_000, overwrite)
