"""How far do learning rates move a connector's weights, and which of these runs are sound?

    python benchmarks/rates.py                        both worlds, factors from 1/3000 to 1000 of the config's rate
    python benchmarks/rates.py --worlds digits --factors 0.1,1,30

The set-ups are those of the fault benchmark. One line per run: the step and the pace of
`eyechart.faults.learning_rate`, and the verdict of check 1. The limits of `learning-rate-too-high` and
`learning-rate-too-low` rest on it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch

import torch

from eyechart.exits import NonFiniteError
from eyechart.faults.learning_rate import movement, typical_size
from eyechart.faults.weights import flatten
from fault_site import World, make_worlds, short_config
from qwen3_vlm import ablate
from qwen3_vlm.build import build_model, prepare_inputs
from qwen3_vlm.train.checkpoint import PARTS, connector_state, load_checkpoint
from qwen3_vlm.train.stage1 import train

_FACTORS = "0.00033,0.001,0.01,0.03,0.1,0.3,1,3,5,10,30,100,1000"


def measure(world: World, factor: float, folder: Path, more: list[str]) -> str:
    """Train with `factor` times the config's rate, and return a line about the run."""
    rate = factor * short_config(world, folder, []).train.lr
    config = short_config(world, folder, ["--train.lr", str(rate), *more])
    initial = flatten(connector_state(build_model(config, prepare_inputs(config)).connector))
    size = typical_size(initial)
    assert size is not None
    begins = f"{world:<7} x {factor:<8g} lr {rate:<8.2g} step {rate / size:<8.2g}"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            checkpoint = train(config, overwrite=True, force=True)
            results = ablate(checkpoint, config, conditions="runbook,no-image")
    except NonFiniteError as error:
        return f"{begins} stopped: {' '.join(str(error).split())[:60]}"
    payload = load_checkpoint(checkpoint)
    stored = flatten({part: payload[part] for part in PARTS if part in payload})
    seen, ablation = movement(initial, stored, payload["updates"]), results.ablation
    assert seen is not None and ablation is not None
    gap = ablation.conditions["shuffled"].gap
    found = ", ".join(f"{f.code}({f.severity[0]})" for f in results.diagnosis) or "-"
    return (
        f"{begins} updates {seen.updates:<4} moved {seen.moved:<8.2g} pace {seen.pace:<8.2g} {ablation.verdict:<12} "
        f"gap {gap if gap is None else round(gap, 3)}  {found}"
    )


def main() -> int:
    """Print one line per world and factor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", default="scenes,digits")
    parser.add_argument("--factors", default=_FACTORS)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_worlds()
    worlds: list[World] = ["scenes" if name == "scenes" else "digits" for name in options.worlds.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        for world in worlds:
            for factor in map(float, options.factors.split(",")):
                more = ["--train.epochs", str(options.epochs), "--seed", str(options.seed)]
                print(measure(world, factor, Path(folder) / "run", more), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
