"""Compares the trial of an earlier version with the trial of this version; every figure must be exactly equal.

    python benchmarks/golden.py --before 4c424e3

Both run on the same machine with the installed packages, alternately, `--runs` times each. Each uses its own source
tree (the earlier version in a git worktree). The comparison covers results.json, log.jsonl, looks.jsonl,
samples.parquet and the tensors of every checkpoint, except fields for times, machines, commands and ids. The CPU
seconds of both are also printed.

The exit code is 0 if everything is equal. Otherwise it is 1, and the first differences are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = "outputs/stage1_align_tiny"
PASSING = {
    *("seconds", "samples_per_second", "peak_memory_gb", "created", "command", "environment", "config", "versions"),
    *("run", "measurement"),
}
"""Keys for times, machines, commands and ids, which are not compared. `config` is compared only through its effects."""
SHOWN = 20


def main() -> int:
    """Run both versions and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="4c424e3", help="commit of the earlier version")
    parser.add_argument("--runs", type=int, default=1, help="number of alternating runs of each version")
    parser.add_argument("--allow", action="append", default=[], help="a path in results.json that may differ")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--quiet", "--detach", str(before), options.before],
                       check=True)  # fmt: skip
        try:
            seconds: dict[str, list[float]] = {"before": [], "now": []}
            for _ in range(options.runs):
                seconds["before"].append(_trial(before))
                seconds["now"].append(_trial(ROOT))
            differences = list(_compare(before / OUTPUT, ROOT / OUTPUT, set(options.allow)))
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(before)], check=False)
    for version, values in seconds.items():
        print(f"{version:7} CPU seconds of the trial: {', '.join(f'{value:.1f}' for value in values)}")
    print(f"now/before: {min(seconds['now']) / min(seconds['before']):.3f}")
    for line in differences[:SHOWN]:
        print(f"differs: {line}")
    print(f"{len(differences)} differences" if differences else "equal: every figure, loss and tensor")
    return 1 if differences else 0


def _trial(tree: Path) -> float:
    """Run the embedded trial in a source tree, and return its CPU seconds, including child processes."""
    paths = [tree / "src", tree / "eyechart" / "src"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path.is_dir())}
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "qwen3_vlm.cli", "trial", "--overwrite"]
    began = time.monotonic()
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{tree}: the trial ended with exit code {done.returncode}: {done.stderr[-2000:]}"
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{tree.name}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    return end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime


def _compare(before: Path, now: Path, allowed: set[str]) -> Iterator[str]:
    yield from _differences(_json(before / "results.json"), _json(now / "results.json"), "results", allowed)
    for name in ("log.jsonl", "looks.jsonl"):
        yield from _differences(_lines(before / name), _lines(now / name), name, allowed)
    tables = [pq.read_table(folder / "samples.parquet") for folder in (before, now)]
    if not tables[0].equals(tables[1]):
        yield "samples.parquet"
    names = [sorted(path.name for path in folder.glob("checkpoint_*.pt")) for folder in (before, now)]
    if names[0] != names[1]:
        yield f"checkpoints: {names[0]} and {names[1]}"
    for name in sorted(set(names[0]) & set(names[1])):
        kept = [torch.load(folder / name, weights_only=True) for folder in (before, now)]
        for part in ("vision_ln", "resampler", "projector"):
            yield from _tensors(kept[0].get(part), kept[1].get(part), f"{name}: {part}")


def _tensors(before: Any, now: Any, where: str) -> Iterator[str]:
    if isinstance(before, torch.Tensor) and isinstance(now, torch.Tensor):
        if not torch.equal(before, now):
            yield where
    elif isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(set(before) | set(now)):
            yield from _tensors(before.get(key), now.get(key), f"{where}.{key}")
    elif before != now:
        yield where


def _differences(before: Any, now: Any, where: str, allowed: set[str]) -> Iterator[str]:
    if where in allowed:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(set(before) | set(now), key=str):
            if key not in PASSING:
                yield from _differences(before.get(key), now.get(key), f"{where}.{key}", allowed)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _differences(old, new, f"{where}[{index}]", allowed)
    elif before != now:
        yield f"{where}: {str(before)[:120]} -> {str(now)[:120]}"


def numbers(results: dict[str, Any]) -> dict[str, float]:
    """Return the figures of check 1, check 2 and training in a results.json by path, without samples and times."""
    parts = {key: results[key] for key in ("training", "ablation", "coverage") if results.get(key)}
    return dict(_numbers(parts, ""))


def _numbers(node: Any, where: str) -> Iterator[tuple[str, float]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in PASSING | {"lengths", "words"}:
                yield from _numbers(value, f"{where}.{key}" if where else key)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _numbers(value, f"{where}[{index}]")
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield where, float(node)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
