"""Measures whether memory grows with the number of samples: peak anonymous memory for 500 and for 10,000 samples.

    python benchmarks/memory.py --samples 500 10000

Two jobs run on random backbones, each in its own process: `train`, one epoch with cached features, and `ablate`, the
standard conditions with one derangement. Images have 64 x 64 pixels: 10,000 of them would take 123 MB, and their
features 61 MB. The table shows the highest RssAnon in /proc/self/status (Linux), read every 10 ms. This is the memory
of the process without memory-mapped files. The exit code is 1 if the larger number of samples needs over 10% more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "eyechart" / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import tiny_runs  # noqa: E402
from qwen3_vlm import ablate
from tiny_rows import llava_row  # noqa: E402

tiny_runs.SIDE = 64
ALLOWED = 1.10
JOBS = ("train", "ablate")


class Watch:
    """Records the highest RssAnon of this process."""

    def __init__(self) -> None:
        """Start recording."""
        self.highest = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.highest = max(self.highest, anonymous_mb())

    def stop(self) -> float:
        """Stop recording, and return the highest value in megabytes."""
        self._done.set()
        self._thread.join()
        return max(self.highest, anonymous_mb())


def anonymous_mb() -> float:
    """Return the anonymous memory of this process in megabytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found, "no RssAnon in /proc/self/status"
    return int(found[1]) * 1024 / 1e6


def write_rows(folder: Path, name: str, count: int) -> None:
    """Write `folder/name` and its images, which are all different, and uncompressed to save time."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [llava_row(row, caption=f"a red circle on a blue ground {row}") for row in range(count)]
    generator = np.random.default_rng(0)
    for row in rows:
        pixels_HWC = generator.integers(0, 256, (tiny_runs.SIDE, tiny_runs.SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels_HWC).save(folder / row["image"], format="BMP")
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")


def run(job: str, root: Path, samples: int) -> float:
    """Do one job in this process, and return its highest anonymous memory in megabytes."""
    world = tiny_runs.TinyWorld(root)
    data = {"data__json_file": str(world.image_root / f"{samples}.json"), "data__eval_ratio": 0.01}
    if job == "train":
        watch = Watch()
        world.train(f"train{samples}", train__epochs=1, train__batch_size=16, data__cache_features="on", **data)
        return watch.stop()
    data = {"data__eval_json": data["data__json_file"], "data__eval_ratio": 0.0}
    settings = {"ablation__batch_size": 64, "ablation__derangements": 1}
    checkpoint = root / "trained" / f"checkpoint_{tiny_runs.LAST_STEP}.pt"
    (checkpoint.parent / "split.json").unlink(missing_ok=True)  # the held-out file differs from the one in training
    watch = Watch()
    results = ablate(checkpoint, world.config("trained", **data, **settings), num_samples=samples)
    highest = watch.stop()
    assert results.ablation is not None and results.ablation.samples == samples
    return highest


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs=2, default=[500, 10_000])
    parser.add_argument("--job", nargs=3, metavar=("JOB", "ROOT", "SAMPLES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        with redirect_stdout(sys.stderr):
            highest = run(arguments.job[0], Path(arguments.job[1]), int(arguments.job[2]))
        print(highest)
        return 0
    right = True
    with tempfile.TemporaryDirectory() as name:
        world = tiny_runs.make_world(Path(name))
        with redirect_stdout(sys.stderr):
            world.train("trained")
        for samples in arguments.samples:
            write_rows(world.image_root, f"{samples}.json", samples)
        print(f"{'job':<8} " + " ".join(f"{samples:>12,}" for samples in arguments.samples) + "  (MB of RssAnon)")
        for job in JOBS:
            found = []
            for samples in arguments.samples:
                began = time.monotonic()
                found.append(in_its_own_process(job, world.root, samples))
                print(f"{job} of {samples:,}: {time.monotonic() - began:.0f} s", file=sys.stderr)
            ratio = found[1] / found[0]
            right &= ratio <= ALLOWED
            print(f"{job:<8} " + " ".join(f"{mb:>12.1f}" for mb in found) + f"  {100 * (ratio - 1):+.1f}%", flush=True)
    return 0 if right else 1


def in_its_own_process(job: str, root: Path, samples: int) -> float:
    """Call `run` in a new process."""
    command = [sys.executable, __file__, "--job", job, str(root), str(samples)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout)


if __name__ == "__main__":
    sys.exit(main())
