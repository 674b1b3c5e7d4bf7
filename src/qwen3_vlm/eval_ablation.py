"""Check 1 from the command line: does the loss rise when the picture is taken away?

    python -m qwen3_vlm.eval_ablation --config configs/stage1_align_tiny.yaml --num_samples 128 \
        --checkpoint outputs/stage1_align_tiny/checkpoint_3675.pt

Exit code 0 PASS, 1 FAIL, 3 INCONCLUSIVE, 2 bad input.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from qwen3_vlm.exits import guarded
from qwen3_vlm.results import EXIT_CODES

if TYPE_CHECKING:
    from qwen3_vlm.api.ablation import Measured


@dataclass(frozen=True)
class Ablate:
    """Score held-out samples with the right, a wrong and no picture, and judge: a checkpoint, or any model.

    Example: qwen3-vlm ablate --checkpoint outputs/stage1_align_tiny/checkpoint_3675.pt --num_samples 128

    An image-text-to-text model of transformers is named with --model, --data and --image_root (docs/any-model.md).
    Any config field can be set too, such as --ablation.derangements 1 (docs/config.md has them all).
    """

    checkpoint: Path | None = None
    """A checkpoint_<step>.pt; the held-out split saved beside it is the one that is scored. Or give --model."""
    config: Path | None = None
    """The run's config; by default the one stored in the checkpoint."""
    model: str | None = None
    """An image-text-to-text model of transformers in place of a checkpoint: a folder or a hub id."""
    data: Path | None = None
    """With --model: rows in LLaVA-Pretrain layout that it has not been trained on."""
    image_root: Path | None = None
    """With --model: folder that the rows' image paths are relative to."""
    train_data: Path | None = None
    """With --model: rows whose images are averaged for mean-token, below --image_root; without it that is left out.
    Give others than those of --data: a mean of the scored images is warned about."""
    prompt: str | None = None
    """With --model: human turn with one <image> for every row; by default the row's own."""
    image_size: int | None = None
    """With --model: pixels of both sides of every image, 8 to 4096; by default what its own processor resizes to."""
    max_seq_len: int | None = None
    """Short for --data.max_seq_len: tokens per sequence; with --model 4096 by default."""
    batch_size: int | None = None
    """Short for --ablation.batch_size."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Short for --model.device."""
    precision: Literal["fp32", "bf16"] | None = None
    """Short for --model.precision."""
    num_samples: int | None = None
    """Held-out samples to score; by default the config's ablation.num_samples. With --model drawn by --seed."""
    conditions: str = "standard"
    """runbook (correct, shuffled, zero, noise), standard (adds no-image, mean-token, noise-per-dim, slot-mix, grey,
    blurred, tiles-4), full (adds blind, tiles-2, tiles-8, matching, donors), or names with commas. blind brings zero,
    no-image and mean-token with it: a prompt that is worse than the best of them is under-trained and splits no gap."""
    output: Path | None = None
    """Folder for results.json and the pages; by default the checkpoint's, with --model outputs/ablate/<its name>."""
    json: bool = False
    """Print results.json to standard output, and the table to standard error."""

    def run(self, overrides: Sequence[str]) -> int:
        """Score, write, print; returns the exit code of the verdict."""
        # Imported where they are used: PyTorch takes seconds to load, and `--help` should not.
        from qwen3_vlm.api.output import write_results

        if self.num_samples is not None and self.num_samples < 1:
            raise ValueError(f"--num_samples: expected at least 1, got {self.num_samples}")
        if (self.checkpoint is None) == (self.model is None):
            raise ValueError(
                f"expected one of --checkpoint and --model, got {'both' if self.model else 'neither'}: a "
                "checkpoint_<step>.pt of a run, or an image-text-to-text model with --data and --image_root"
            )
        overrides = [*overrides, *self._short_forms()]
        measured = self._measure_model(overrides) if self.model else self._measure_checkpoint(overrides)
        if int(os.environ.get("RANK", "0")) == 0:  # all processes of a job hold the same results
            write_results(measured.results, self._folder(), self.json, measured.samples)
        return EXIT_CODES[measured.results.verdict]

    def _measure_checkpoint(self, overrides: Sequence[str]) -> Measured:
        from qwen3_vlm.api.ablation import measure
        from qwen3_vlm.config import load_config
        from qwen3_vlm.train.checkpoint import stored_config

        assert self.checkpoint is not None
        for flag in ("data", "image_root", "train_data", "prompt", "image_size"):
            if getattr(self, flag) is not None:
                raise ValueError(f"--{flag}: goes with --model; a checkpoint is scored on the data of its own run")
        config = load_config(self.config, overrides) if self.config else stored_config(self.checkpoint, overrides)
        return measure(self.checkpoint, config, self.num_samples, self.conditions)

    def _measure_model(self, overrides: Sequence[str]) -> Measured:
        from qwen3_vlm.api.foreign import foreign_config, measure_model
        from qwen3_vlm.config import load_config

        assert self.model is not None
        if self.data is None or self.image_root is None:
            missing = " and ".join(f"--{flag}" for flag in ("data", "image_root") if getattr(self, flag) is None)
            raise ValueError(f"--model: {missing} missing; expected --data FILE.json --image_root FOLDER beside it")
        return measure_model(
            self.model,
            self.data,
            self.image_root,
            self.num_samples,
            self.conditions,
            self.train_data,
            self.prompt,
            self.image_size,
            load_config(self.config, overrides) if self.config else foreign_config(overrides),
        )

    def _short_forms(self) -> list[str]:
        """The config fields that can be set without their section."""
        fields = {
            "data.max_seq_len": self.max_seq_len,
            "ablation.batch_size": self.batch_size,
            "model.device": self.device,
            "model.precision": self.precision,
        }
        return [part for key, value in fields.items() if value is not None for part in (f"--{key}", str(value))]

    def _folder(self) -> Path:
        if self.output:
            return self.output
        if self.checkpoint:
            return self.checkpoint.parent
        return Path("outputs") / "ablate" / Path(str(self.model)).name


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `python -m qwen3_vlm.eval_ablation`."""
    command, overrides = tyro.cli(
        Ablate, prog="python -m qwen3_vlm.eval_ablation", args=arguments, return_unknown_args=True
    )
    return guarded(lambda: command.run(overrides))


if __name__ == "__main__":
    sys.exit(main())
