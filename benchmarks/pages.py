"""What people are shown of a run, made again: the README's table, two example pages, a screenshot, written captions.

    python benchmarks/pages.py

Runs the embedded trial, puts what the terminal shows between the marks in README.md, and writes docs/samples.png and
docs/report.png (the first screen of its page, where there is a Chromium). Then trains two connectors alike on 2,000
scenes for three epochs, the second on pairs rolled by one, each image with the next row's caption, scores both on 100
true pairs, and writes docs/sees.html and docs/style-only.html: both beat zeros and noise, one sees, the other only
learnt the captions' style. Exits with 1 where a page does not show what its name says. Look at what it wrote.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from eyechart.files import write_atomic
from eyechart.reporting.html import docs_link, render_html
from eyechart.reporting.readings import GATES
from eyechart.reporting.terminal import print_results
from eyechart.results import Results
from eyechart.scoring.conditions import STANDARD
from qwen3_vlm.build import prepare_data
from qwen3_vlm.commands.ablate import ablate
from qwen3_vlm.commands.trial import trial
from qwen3_vlm.config import Config, load_config
from qwen3_vlm.train.stage1 import train

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BEGIN, END = "<!-- trial: make pages -->\n", "<!-- /trial -->\n"
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
    """Print the gates; True where zero and noise cost, and shuffled stands as the name of the page says."""
    assert results.ablation is not None
    conditions = results.ablation.conditions
    for name in GATES:
        print(f"  {name:<9}{conditions[name].gap:+.4f}  {conditions[name].standing}")
    print(f"  {results.verdict}")
    expected = {"zero": "costs", "noise": "costs", "shuffled": "costs" if sees else "ruled out"}
    return all(conditions[name].standing == standing for name, standing in expected.items())


def two_connectors(output: Path) -> bool:
    """Train, score, write both pages; whether they show what their names say."""
    right = []
    with tempfile.TemporaryDirectory() as name:
        for page, shift in (("sees", 0), ("style-only", 1)):
            results = ablate(trained(Path(name) / page, shift), conditions="full")
            write_atomic(output / f"{page}.html", render_html(results, docs=docs_link(output)))
            print(page)
            right.append(shows(results, sees=not shift))
    return all(right)


def whole_trial(output: Path, readme: Path) -> bool:
    """Run the trial; put its table into the README, and what it wrote and its first screen beside the pages."""
    with tempfile.TemporaryDirectory() as name, redirect_stdout(sys.stderr):
        results = trial(load_config(TINY, ["--output_dir", name, "--train.tracker", "none"]), conditions="full")
        shutil.copyfile(Path(name) / "samples.png", output / "samples.png")
        if CHROMIUM is None:
            sys.stderr.write("warning: no Chromium here, so report.png stays as it is\n")
        else:
            screenshot(Path(name) / "report.html", output / "report.png")
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{readme}: expected the lines {BEGIN.strip()} and {END.strip()}")
    shown = io.StringIO()
    print_results(results, shown)
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    first = next(place for place, line in enumerate(lines) if line.startswith("condition"))
    last = next(place for place, line in enumerate(lines) if line.startswith("  correct:"))
    table = [line for line in lines[first:last] if line.split()[0] in STANDARD + ("condition",)]
    text = "\n".join(["```text", *lines[: lines.index("")], "...", *table, "```"])
    write_atomic(readme, f"{before}{BEGIN}{text}\n{END}{after}")
    return results.verdict == "PASS"


def screenshot(page: Path, picture: Path) -> None:
    """The first screen of a page, as Chromium draws it."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
             "--window-size=1280,560", f"--screenshot={picture.resolve()}", page.resolve().as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def main() -> int:
    """Make everything again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder for pages and pictures")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="whose table is replaced")
    arguments = parser.parse_args()
    right = [whole_trial(arguments.output, arguments.readme), two_connectors(arguments.output)]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
