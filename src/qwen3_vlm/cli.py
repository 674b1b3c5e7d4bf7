"""The command line: `qwen3-vlm trial | train | ablate | audit | diagnose | caption | export | report`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import tyro

from eyechart.exits import guarded
from eyechart.results import EXIT_CODES
from qwen3_vlm.eval_ablation import Ablate, refuse_moved
from qwen3_vlm.train.arguments import Train

_TINY = Path("configs/stage1_align_tiny.yaml")


@dataclass(frozen=True)
class Trial:
    """The whole trial: data, check 2, training, check 1, written captions, verdict.

    Example: qwen3-vlm trial --config configs/stage1_align_digits.yaml

    Any config field can be set too, such as --train.epochs 1 (docs/config.md has them all).
    """

    config: Path = _TINY
    """The run; the default needs no download and no GPU."""
    num_samples: int | None = None
    """Held-out samples to score; by default the config's ablation.num_samples."""
    conditions: str = "standard"
    """As in `qwen3-vlm ablate`."""
    resume: bool = False
    """Go on from the newest checkpoint in output_dir."""
    overwrite: bool = False
    """Delete what an earlier run left in output_dir."""
    force: bool = False
    """Train although a fault was found; the results then say so."""
    json: bool = False
    """Print results.json to standard output, and the rest to standard error."""

    def run(self, overrides: Sequence[str]) -> int:
        """Run it all; returns the exit code of the verdict."""
        from qwen3_vlm.commands.trial import trial
        from qwen3_vlm.config import load_config

        config = load_config(self.config, overrides)
        results = trial(config, self.num_samples, self.conditions, self.resume, self.overwrite, self.json, self.force)
        return EXIT_CODES[results.verdict]


@dataclass(frozen=True)
class Audit:
    """Check 2 over a whole split without training: truncation, zero-label samples, label tokens, and the cure.

    Example: qwen3-vlm audit --config configs/stage1_align_tiny.yaml --data.max_seq_len 32
    """

    config: Path
    """The run."""
    split: Literal["train", "eval"] = "train"
    """Which side of the split."""
    text_only: bool = False
    """Do not open the images: faster, but unreadable ones then count as samples."""
    json: bool = False
    """Print the results as JSON to standard output, and the table to standard error."""

    def run(self, overrides: Sequence[str]) -> int:
        """Count and judge; returns the exit code of the verdict."""
        from eyechart.reporting.output import Parts, assemble, show
        from qwen3_vlm.commands.audit import audit
        from qwen3_vlm.config import load_config

        config = load_config(self.config, overrides)
        counted = Parts(coverage=audit(config, self.split, self.text_only))
        results = assemble(config.model_dump(mode="json"), None, counted)
        show(results, as_json=self.json)
        return EXIT_CODES[results.verdict]


@dataclass(frozen=True)
class Diagnose:
    """Look for faults without training: data, prompts, labels, pixels, embeddings, gradients; or in a checkpoint.

    Example: qwen3-vlm diagnose --config configs/stage1_align_tiny.yaml

    Exit code 1 with an error, 0 without; every fault has a page in docs/faults.
    """

    config: Path | None = None
    """The run; by default the one stored in the checkpoint."""
    checkpoint: Path | None = None
    """A checkpoint_<step>.pt: also look at its weights, and score held-out samples."""
    rows: int = 128
    """Rows of each side of the split that are read with their images."""
    json: bool = False
    """Print the findings as JSON to standard output, and the text to standard error."""

    def run(self, overrides: Sequence[str]) -> int:
        """Look and print; returns 1 with an error among the findings, else 0."""
        from qwen3_vlm.commands.diagnose import diagnose_file, show_diagnosis

        if self.rows < 1:
            raise ValueError(f"--rows: expected at least 1, got {self.rows}")
        found = diagnose_file(self.config, list(overrides), self.checkpoint, self.rows)
        show_diagnosis(found, self.json)
        return found.code


@dataclass(frozen=True)
class Caption:
    """Write captions for images with a trained connector.

    Example: qwen3-vlm caption --checkpoint outputs/stage1_align_tiny/checkpoint_3675.pt data/scenes/00000/*.png
    """

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files."""
    checkpoint: Path
    """A checkpoint_<step>.pt."""
    config: Path | None = None
    """The run's config; by default the one stored in the checkpoint."""
    request: str | None = None
    """Human turn with one <image>; by default the config's prompt.caption_request."""
    max_new_tokens: int = 64
    """Longest caption, in tokens."""

    def run(self, overrides: Sequence[str]) -> int:
        """Print `path<TAB>caption`, one line per image."""
        from qwen3_vlm.commands.loaded import load
        from qwen3_vlm.config import load_config
        from qwen3_vlm.train.checkpoint import stored_config

        if not self.images:
            raise ValueError("expected image files, got none: qwen3-vlm caption --checkpoint CHECKPOINT IMAGE...")
        config = load_config(self.config, overrides) if self.config else stored_config(self.checkpoint, overrides)
        model = load(self.checkpoint, config)
        for image, text in zip(self.images, model.caption(self.images, self.request, self.max_new_tokens), strict=True):
            sys.stdout.write(f"{image}\t{' '.join(text.split())}\n")
        return 0


@dataclass(frozen=True)
class Export:
    """Write a trained connector as a folder that transformers' from_pretrained loads (docs/api.md).

    Example: qwen3-vlm export --checkpoint outputs/stage1_align_tiny/checkpoint_3675.pt --output exported
    """

    checkpoint: Path
    """A checkpoint_<step>.pt."""
    output: Path
    """A new folder."""
    config: Path | None = None
    """The run's config; by default the one stored in the checkpoint."""
    include_backbones: bool = False
    """Copy both backbones into the folder, so that it can go to another machine; otherwise it refers to them."""

    def run(self, overrides: Sequence[str]) -> int:
        """Load, write, and say what was written."""
        from qwen3_vlm.commands.loaded import load
        from qwen3_vlm.config import load_config
        from qwen3_vlm.train.checkpoint import stored_config

        if self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
            raise ValueError(f"--output: expected a new or empty folder, {self.output} is not; name another")
        config = load_config(self.config, overrides) if self.config else stored_config(self.checkpoint, overrides)
        load(self.checkpoint, config).save_pretrained(self.output, self.include_backbones)
        names = ", ".join(sorted(path.name for path in self.output.iterdir()))
        sys.stdout.write(f"written: {self.output} ({names})\n")
        return 0


@dataclass(frozen=True)
class Report:
    """Make report.html again from the results.json of a run.

    Example: qwen3-vlm report outputs/stage1_align_tiny
    """

    folder: tyro.conf.Positional[Path]
    """Folder with a results.json, as `trial` and `ablate` leave it."""
    output: Path | None = None
    """The page to write; by default report.html in that folder."""
    image_root: Path | None = None
    """Folder that the samples' images are in; by default the config's data.image_root, seen from here. A line says how
    many of them are not there; the page is then written without."""

    def run(self, overrides: Sequence[str]) -> int:
        """Read, render, write; and say which pictures the page has to do without."""
        from eyechart.reporting.output import rewrite_page

        if overrides:
            raise ValueError(f"report takes no config fields, got {' '.join(overrides)}: it shows what was measured")
        rewrite_page(self.folder, self.output, self.image_root)
        return 0


_Command = (
    Annotated[Trial, tyro.conf.subcommand("trial")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Caption, tyro.conf.subcommand("caption")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `qwen3-vlm`."""
    typed = list(sys.argv[1:] if arguments is None else arguments)

    def run() -> int:
        if typed[:1] == ["--version"]:
            sys.stdout.write(f"qwen3-vlm {version('qwen3-vlm')}\n")
            return 0
        if typed[:1] == ["ablate"]:
            refuse_moved(typed)
        command, overrides = tyro.cli(
            _Command,
            prog="qwen3-vlm",
            description="Train a vision-language connector, and prove whether it carries the picture. Also: --version.",
            args=typed,
            return_unknown_args=True,
        )
        return int(command.run(overrides))

    return guarded(run, "qwen3_vlm")


if __name__ == "__main__":
    sys.exit(main())
