"""Temporary files that are read back through memory mapping: nothing is left of them, and nothing is lost in them."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyechart.scoring.batching import collate
from eyechart.scoring.spool import Spool, free_bytes
from eyechart.scoring.storage import BatchFile, LossFile, VisualFile
from eyechart.seam import IGNORE_INDEX, Batch, Reject, Sample, VisualTokens
from tiny_runs import file_size_limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_was_appended_is_read_back(tmp_path: Path, dtype: torch.dtype) -> None:
    spool = Spool(tmp_path, "numbers")
    parts = [torch.randn(n, 3, 5).to(dtype) for n in (4, 1, 7)]
    for part in parts:
        spool.append(part)
    assert torch.equal(spool.tensor(dtype, 12, 3, 5), torch.cat(parts))
    spool.append(parts[0])
    assert torch.equal(spool.tensor(dtype, 16, 3, 5)[12:], parts[0]), "also after what was read"


def test_a_mapped_tensor_outlives_its_spool_and_nothing_is_seen_in_the_folder(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "numbers")
    spool.append(torch.arange(100_000.0))
    assert list(tmp_path.iterdir()) == [], "no name, so that a kill leaves no file"
    mapped = spool.tensor(torch.float32, 100_000)
    del spool
    assert float(mapped.double().sum()) == 99_999 * 50_000


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        spool = Spool(tmp_path, "numbers")
        spool.append(torch.zeros(100_000))
        spool.tensor(torch.float32, 100_000)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_mapped_pages_are_not_anonymous_memory(tmp_path: Path) -> None:
    def anonymous() -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    if not Path("/proc/self/status").is_file():
        pytest.skip("needs Linux's /proc")
    before, part, spool = anonymous(), torch.ones(1_000_000), Spool(tmp_path, "numbers")
    for _ in range(25):
        spool.append(part)
    mapped = spool.tensor(torch.float32, 25_000_000)
    assert float(mapped.sum()) == 25_000_000
    assert anonymous() - before < 20e6, "100 MB were written and read"


def test_a_full_disk_is_one_line_and_no_crash(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "visual tokens")
    with file_size_limit(100_000), pytest.raises(ValueError, match="cannot write visual tokens to a temporary file"):
        spool.append(torch.zeros(1_000_000))
        spool.tensor(torch.float32, 1_000_000)


def test_a_folder_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "runs" / "one", "numbers")
    spool.append(torch.ones(3))
    assert spool.tensor(torch.float32, 3).tolist() == [1, 1, 1]
    assert list(tmp_path.iterdir()) == []
    assert free_bytes(tmp_path / "runs") > 0


def test_a_folder_that_cannot_be_written_to_gives_way_to_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the super user may write anywhere
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    with pytest.raises(ValueError, match="temporary: cannot write numbers"):
        Spool(tmp_path, "numbers")
    (tmp_path / "temporary").mkdir()
    Spool(tmp_path, "numbers").append(torch.ones(3))


def test_nothing_written_is_an_empty_tensor(tmp_path: Path) -> None:
    assert Spool(tmp_path, "numbers").tensor(torch.float64, 3, 0).shape == (3, 0)


def test_visual_tokens_come_back_in_the_order_asked_for_layer_by_layer(tmp_path: Path) -> None:
    parts = [VisualTokens((torch.randn(n, 2, 3), torch.randn(n, 2, 4).bfloat16())) for n in (3, 2)]
    file = VisualFile(tmp_path)
    for part in parts:
        file.append(part)
    whole, order = VisualTokens.cat(parts), [4, 0, 3, 1, 2]
    got = file.read(order)
    assert (len(got), got.slots) == (5, 2)
    for layer in (0, 1):
        assert torch.equal(got.rows([1, 0]).layers[layer], whole.layers[layer][[0, 4]])
        assert torch.equal(torch.stack(list(got.images(layer))), whole.layers[layer][order])
        mixed = got.mixed(torch.tensor([[0, 2], [3, 3]])).layers[layer]
        assert torch.equal(mixed[0], torch.stack([whole.layers[layer][4, 0], whole.layers[layer][3, 1]]))
        assert torch.equal(mixed[1], whole.layers[layer][1])


def test_losses_come_back_by_sample_condition_and_round(tmp_path: Path) -> None:
    # Scored in the order 2, 0, 1; lengths by canonical position are 1, 3, 2.
    file = LossFile(tmp_path, [2, 0, 1], [1, 3, 2])
    for column in range(3):
        file.append(torch.tensor([20.0, 21.0, 0.0]) + 100 * column)
        file.append(torch.tensor([10.0, 11.0, 12.0]) + 100 * column)
    table = file.read({"correct": 1, "shuffled": 2, "zero": 0})
    assert {name: [x.tolist() for x in rounds] for name, rounds in table.of(1).items()} == {
        "correct": [[10, 11, 12]],
        "shuffled": [[110, 111, 112], [210, 211, 212]],
    }
    assert table.of(0)["correct"][0].tolist() == [0] and table.of(2)["shuffled"][1].tolist() == [220, 221]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 4))
def test_batches_come_back_exactly_as_the_collator_made_them(lengths: list[int], size: int) -> None:
    samples = [sample_of(row, length) for row, length in enumerate(lengths)]
    batches = [
        replace(collate(samples[start : start + size], pad_id=9), rejects=(Reject(99 + start, "image missing", "x"),))
        for start in range(0, len(samples), size)
    ]
    file = BatchFile(None)
    for batch in batches:
        file.append(batch)
    position = {row: len(samples) - 1 - row for row in range(len(samples))}
    numbers, stored = file.read(position)
    by_place = samples[::-1]
    for batch, kept in zip(batches, stored, strict=True):
        assert kept.places == tuple(position[s.row] for s in batch.samples)
        assert_same(kept.load(numbers, by_place), batch)
        bare = [replace(s, ids_T=s.ids_T[:0], labels_T=s.labels_T[:0]) for s in batch.samples]
        for got, sample in zip(kept.with_text(numbers, bare), batch.samples, strict=True):
            assert got.ids_T.tolist() == sample.ids_T.tolist() and got.labels_T.tolist() == sample.labels_T.tolist()


def test_a_batch_read_back_may_be_changed_without_changing_the_file() -> None:
    file, sample = BatchFile(None), sample_of(0, 3)
    file.append(collate([sample], pad_id=0))
    numbers, (stored,) = file.read({0: 0})
    for values in (stored.load(numbers, [sample]).ids_BT, stored.load(numbers, [sample]).lengths_B):
        values.zero_()
    assert_same(stored.load(numbers, [sample]), collate([sample], pad_id=0))


def sample_of(row: int, length: int) -> Sample:
    """Two prompt tokens that are the image block, then labels."""
    ids_T = np.arange(2 + length) + 10 * row
    labels_T = np.where(np.arange(2 + length) < 2, IGNORE_INDEX, ids_T)
    return Sample(row, str(row), f"{row}.png", f"caption {row}", ids_T, labels_T, (0, 2), 2 + length + row % 2)


def assert_same(got: Batch, expected: Batch) -> None:
    for name in ("ids_BT", "labels_BT", "lengths_B", "block_BT"):
        mine, other = getattr(got, name), getattr(expected, name)
        assert torch.equal(mine, other) and mine.dtype == other.dtype, name
    assert [s.row for s in got.samples] == [s.row for s in expected.samples]
    assert (got.stats, got.rejects) == (expected.stats, expected.rejects)
    assert got.pixels_BCHW is None and got.features_BPV is None
