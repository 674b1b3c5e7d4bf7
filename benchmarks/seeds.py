"""Tests the verdict on shortened healthy runs with many seeds, and on three connectors that must fail.

    python benchmarks/seeds.py --seeds 20

A shortened run trains on 600 scenes for two epochs (the trial: 4,900 for three) and scores 100 other scenes. The
controls are an untrained connector, a connector with constant output, and a connector trained on pairs shifted by one
(each image with the next row's caption) and scored on correct pairs. The exit code is 1 if a verdict is not the
expected one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import torch

from eyechart.files import write_atomic
from eyechart.results import Results
from qwen3_vlm import ablate
from qwen3_vlm.build import build_model, prepare_data
from qwen3_vlm.config import Config, load_config
from qwen3_vlm.train.checkpoint import connector_state, load_checkpoint, save_checkpoint
from qwen3_vlm.train.evidence.record import sealed
from qwen3_vlm.train.stage1 import train

TINY = Path("configs/stage1_align_tiny.yaml")
TRAINED, HELD_OUT = 600, 100


def short_config(folder: Path, seed: int, *overrides: str) -> Config:
    """Return the config of the tiny trial, shortened, with this folder as output_dir."""
    size = TRAINED + HELD_OUT
    ratio = HELD_OUT / size
    short = ["--threads", "1", "--data.max_samples", str(size), "--data.eval_ratio", str(ratio), "--train.epochs", "2"]
    return load_config(TINY, ["--output_dir", str(folder), "--seed", str(seed), *short, *overrides])


def healthy(folder: Path, seed: int) -> Path:
    """Train a shortened healthy run, and return its last checkpoint."""
    return _train(short_config(folder, seed))


def _train(config: Config, force: bool = False) -> Path:
    with redirect_stdout(sys.stderr):  # standard output is for the table
        return train(config, force=force)


def untrained(folder: Path) -> Path:
    """Return a checkpoint of the connector before its first update."""
    config = short_config(folder, 42)
    vlm = build_model(config, prepare_data(config).inputs)
    path = folder / "checkpoint_0.pt"
    save_checkpoint(path, {**connector_state(vlm.connector), "step": 0, "config": config.to_yaml()})
    return path


def constant(folder: Path, trained: Path) -> Path:
    """Return a trained checkpoint whose last layer ignores its input, so all images have the same visual tokens."""
    payload = load_checkpoint(trained)
    payload["projector"]["net.2.weight"].zero_()
    payload["projector"]["net.2.bias"] = torch.randn(payload["projector"]["net.2.bias"].shape)
    path = folder / "checkpoint_1.pt"
    save_checkpoint(path, sealed(payload))
    return path


def rolled(folder: Path, seed: int) -> Path:
    """Train on pairs shifted by one, hold out correct pairs, and return the last checkpoint."""
    scenes = Path("data/scenes/scenes.json")
    prepare_data(short_config(folder, seed))  # draws the scenes if they do not exist yet
    rows = json.loads(scenes.read_text(encoding="utf-8"))
    pairs, held_out = rows[:TRAINED], rows[TRAINED : TRAINED + HELD_OUT]
    texts = [row["conversations"] for row in pairs]
    # Ids stay with the images: the preflight would reject rows whose id is the name of another image.
    wrong = [{**row, "conversations": text} for row, text in zip(pairs, texts[1:] + texts[:1], strict=True)]
    write_atomic(folder / "rolled.json", json.dumps(wrong))
    write_atomic(folder / "true.json", json.dumps(held_out))
    files = ["--data.json_file", str(folder / "rolled.json"), "--data.eval_json", str(folder / "true.json")]
    # The preflight would stop training, because it detects that shifted captions do not match their images.
    return _train(short_config(folder, seed, *files), force=True)


def line(name: str, results: Results, expected: str) -> bool:
    """Print one row of the table, and return whether the verdict is the expected one."""
    assert results.ablation is not None
    shown = []
    for gate in ("shuffled", "zero", "noise"):
        condition = results.ablation.conditions[gate]
        shown.append("     -  " if condition.gap is None else f"{condition.gap:+8.4f}")
    right = results.verdict == expected
    print(f"{name:<16} {' '.join(shown)}  {results.verdict:<13}{'' if right else 'EXPECTED ' + expected}", flush=True)
    return right


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="healthy runs")
    count = parser.parse_args().seeds
    print(f"{'run':<16} {'shuffled':>8} {'zero':>8} {'noise':>8}  verdict   (gaps in nats per label token)")
    right = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in range(count):
            right.append(line(f"healthy {seed}", ablate(healthy(folder / f"h{seed}", seed)), "PASS"))
        print(f"healthy: {sum(right)} of {count} PASS")
        donor = healthy(folder / "constant", 42)
        for label, path in (
            ("untrained", untrained(folder / "u")),
            ("constant output", constant(folder / "constant", donor)),
            ("rolled pairs", rolled(folder / "r", 42)),
        ):
            right.append(line(label, ablate(path), "FAIL"))
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
