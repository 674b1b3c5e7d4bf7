"""Does hashing all weights while they are read take longer than reading? Both, in turn, on a synthetic language model.

    python benchmarks/hashing.py --megabytes 350 --rounds 3

Each round reads the model alone and then with hashes, from the page cache and, where the system lets a process drop a
file from it, from the disk. Printed are the seconds of wall and processor time, and the number of cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from eyechart.models.hashing import tensor_hash, weight_files
from eyechart.models.weights import load_complete, load_hashed

_LAYER = 12.6
"""Megabytes of bfloat16 weights per layer of the synthetic model, in millions of values times two bytes."""


def save_model(folder: Path, megabytes: int) -> float:
    """Save a model of random bfloat16 weights, and return its size in megabytes."""
    config = Qwen3Config(
        vocab_size=32_000,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=max(1, round((megabytes - 65) / (2 * _LAYER))),
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return sum(file.stat().st_size for file in weight_files(str(folder))) / 1e6


def drop_from_cache(folder: Path) -> None:
    """Ask the system to forget the pages of the weights, so that they are read from the disk again."""
    for file in weight_files(str(folder)):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(read: Callable[[], object]) -> tuple[float, float]:
    """Return wall and processor seconds of a call."""
    wall, used = time.monotonic(), time.process_time()
    read()
    return time.monotonic() - wall, time.process_time() - used


def copied(folder: Path, hashed: bool) -> None:
    """Load the model and copy its weights, as a move to a GPU does; with `hashed`, wait for all hashes at the end."""
    if hashed:
        model, files = load_hashed(Qwen3ForCausalLM, str(folder), "model", torch.bfloat16, "sdpa")
    else:
        model, files = load_complete(Qwen3ForCausalLM, str(folder), "model", torch.bfloat16, "sdpa"), None
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    if files is not None:
        files.of(model)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=350, help="size of the synthetic model")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        size = save_model(folder, options.megabytes)
        print(f"{size:.0f} MB of bfloat16, {os.cpu_count()} cores, {options.rounds} rounds, median wall (processor) s")
        ways = {"alone": lambda: copied(folder, False), "with hashes": lambda: copied(folder, True)}
        for place, prepare in (("page cache", lambda: None), ("disk", lambda: drop_from_cache(folder))):
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for _ in range(options.rounds):
                for name, read in ways.items():
                    prepare()
                    found[name].append(seconds(read))
            for name, times in found.items():
                wall, used = (statistics.median(values) for values in zip(*times, strict=True))
                print(f"{place:<11} {name:<12} {wall:6.2f} ({used:.2f})")
        value = torch.randn(1 << 26).to(torch.bfloat16)
        wall, used = seconds(lambda: tensor_hash(value))
        print(f"one thread hashes {2 * value.numel() / used / 1e9:.2f} GB per second of processor time")


if __name__ == "__main__":
    main()
