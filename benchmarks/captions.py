"""Grades greedy captions by the trials' connectors, of images that no part of the model was trained on.

    python benchmarks/captions.py

Scenes: 500 new scenes, drawn with a different seed than the trial's 5,000 and graded by sets of attributes. Digits: the
    297 held-out digits. If `outputs/` contains no trial, one is trained first. Prints one table per data set with a
    target next to each figure. The exit code is 1 if a target is missed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from eyechart.data.images import load_image
from eyechart.results import Results, read
from qwen3_vlm import load, trial
from qwen3_vlm.build import prepare_data
from qwen3_vlm.commands.captions import write_captions
from qwen3_vlm.commands.loaded import Loaded
from qwen3_vlm.config import load_config
from qwen3_vlm.demo.worlds import digits, scenes
from qwen3_vlm.train.checkpoint import find_checkpoints

FRESH, FRESH_SEED = 500, "captions-benchmark"
SCENE_TARGETS = {"colour": 0.95, "shape": 0.90, "background": 0.97, "count": 0.97, "texture": 0.97, "size": 0.88}
DIGIT_TARGETS = {"digit": 0.95}


def trained(config_file: str) -> tuple[Loaded, Results]:
    """Return the trial's last checkpoint and its results; the trial is run first if they do not exist."""
    config = load_config(Path(config_file))
    folder = Path(config.output_dir)
    if not (folder / "results.json").is_file():
        trial(config, overwrite=True)
    return load(find_checkpoints(folder)[-1]), read(folder / "results.json")


def fresh_scenes(model: Loaded) -> tuple[list[str], list[str]]:
    """Return the true and the written captions of scenes that neither a trial nor a backbone was trained on."""
    drawn = [
        (scene, scenes.instruction(rng), scenes.caption(scene, rng)) for scene, rng in scenes.series(FRESH, FRESH_SEED)
    ]
    pixels, prompts = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.png"
        for scene, human, _ in drawn:
            scenes.draw(scene).save(path)
            pixels.append(load_image(path, model.inputs.spec, model.config.data.max_pixels))
            prompts.append(torch.as_tensor(model.inputs.prompts.prompt(human).ids_T))
    return [caption for _, _, caption in drawn], model.write(pixels, prompts)


def table(title: str, marks: list[dict[str, bool]], targets: dict[str, float]) -> bool:
    """Print the share of correct captions per attribute, and return whether every target is met."""
    print(f"\n{title}\n{'attribute':<12} {'right':>7} {'of':>5} {'target':>7}")
    met = True
    for name in sorted({key for mark in marks for key in mark}, key=lambda n: (n not in targets, n)):
        graded = [mark[name] for mark in marks if name in mark]
        share, target = sum(graded) / len(graded), targets.get(name)
        met &= target is None or share >= target
        note = f"{target:7.2f}{'' if share >= target else '  MISSED'}" if target is not None else "      -"
        print(f"{name:<12} {share:7.3f} {len(graded):5d} {note}")
    return met


def gaps(results: Results) -> bool:
    """Print the figures of check 1, and return whether the trial's targets for the shuffled gap are met."""
    assert results.ablation is not None
    print(f"verdict {results.verdict}, {results.ablation.samples} held-out samples")
    for name, condition in results.ablation.conditions.items():
        gap = "" if condition.gap is None else f"  gap {condition.gap:+.3f}  lower99 {condition.lower99:+.3f}"
        print(f"  {name:<12} loss {condition.loss:.3f}{gap}")
    shuffled = results.ablation.conditions["shuffled"]
    assert shuffled.gap is not None and shuffled.lower99 is not None
    return results.verdict == "PASS" and shuffled.gap >= 1.5 and shuffled.lower99 > 1.2


def main() -> int:
    """Print both tables."""
    model, results = trained("configs/stage1_align_tiny.yaml")
    met = gaps(results)
    true, written = fresh_scenes(model)
    marks = [scenes.grade(w, t) for w, t in zip(written, true, strict=True)]
    met &= table(f"{FRESH} fresh scenes, greedy captions", marks, SCENE_TARGETS)

    model, results = trained("configs/stage1_align_digits.yaml")
    print(f"\ndigits: verdict {results.verdict}")
    prepared = prepare_data(model.config)
    captions = write_captions(model, prepared, len(prepared.eval))
    marks = [digits.grade(c.written, c.true) for c in captions]
    met &= results.verdict == "PASS"
    met &= table(f"{len(captions)} held-out digits, greedy captions", marks, DIGIT_TARGETS)
    print("\nall targets met" if met else "\nsome targets MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
