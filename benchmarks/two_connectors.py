"""Two connectors that both beat zeros and noise, one that sees and one that only learnt the captions' style: two pages.

    python benchmarks/two_connectors.py

Both train alike on 2,000 scenes for three epochs; the second on pairs rolled by one, each image with the next row's
caption. Both are scored on 100 true pairs. Writes docs/sees.html and docs/style-only.html, prints their gates, and
exits with 1 where the pages do not show what their names say.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from eyechart.files import write_atomic
from eyechart.reporting.html import docs_link, render_html
from eyechart.reporting.readings import GATES, met
from eyechart.results import Results
from qwen3_vlm.build import prepare_data
from qwen3_vlm.commands.ablate import ablate
from qwen3_vlm.config import Config, load_config
from qwen3_vlm.train.stage1 import train

TINY = Path("configs/stage1_align_tiny.yaml")
TRAINED, HELD_OUT = 2000, 100
SHOWN = 24
"""Samples in the gallery of each page."""


def config_of(folder: Path, *overrides: str) -> Config:
    """The tiny trial, shortened, into `folder`."""
    short = ["--threads", "1", "--data.max_samples", "null", "--train.tracker", "none"]
    return load_config(TINY, ["--output_dir", str(folder), "--ablation.gallery", str(SHOWN), *short, *overrides])


def trained(folder: Path, shift: int) -> Path:
    """Train with each image beside the caption `shift` rows on, hold out true pairs; the last checkpoint."""
    prepare_data(config_of(folder))  # draws the scenes where they are not there yet
    rows = json.loads(Path("data/scenes/scenes.json").read_text(encoding="utf-8"))
    pairs, held_out = rows[:TRAINED], rows[TRAINED : TRAINED + HELD_OUT]
    texts = [row["conversations"] for row in pairs]
    moved = texts[shift:] + texts[:shift]
    # Ids stay with the images: a row whose id names another image would be refused before training.
    mixed = [{**row, "conversations": text} for row, text in zip(pairs, moved, strict=True)]
    write_atomic(folder / "train.json", json.dumps(mixed))
    write_atomic(folder / "true.json", json.dumps(held_out))
    files = ["--data.json_file", str(folder / "train.json"), "--data.eval_json", str(folder / "true.json")]
    with redirect_stdout(sys.stderr):  # standard output is for the table
        # The preflight sees that rolled captions do not go with their images, and would refuse.
        return train(config_of(folder / "run", *files), force=bool(shift))


def shows(results: Results, sees: bool) -> bool:
    """Print the gates; True where zero and noise are met and shuffled is as the name of the page says."""
    assert results.ablation is not None
    conditions = results.ablation.conditions
    for name in GATES:
        print(f"  {name:<9}{conditions[name].gap:+.4f}  lower99 {conditions[name].lower99:+.4f}")
    print(f"  {results.verdict}")
    return met(conditions["zero"]) and met(conditions["noise"]) and met(conditions["shuffled"]) == sees


def main() -> int:
    """Train, score, write both pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder for the two pages")
    output = parser.parse_args().output
    right = []
    with tempfile.TemporaryDirectory() as name:
        for page, shift in (("sees", 0), ("style-only", 1)):
            results = ablate(trained(Path(name) / page, shift), conditions="full")
            write_atomic(output / f"{page}.html", render_html(results, docs=docs_link(output)))
            print(page)
            right.append(shows(results, sees=not shift))
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
