"""Makes the examples of the documentation: the README's table, two example pages, a screenshot, written captions.

    python benchmarks/pages.py

Runs the embedded trial, puts the terminal output between the marks in README.md, and writes docs/samples.png and
docs/report.png (the first screen of its page, if Chromium is installed). Then trains two connectors in the same way on
2,000 scenes for three epochs, but the second one on pairs shifted by one, in which each image has the next row's
caption. Both are scored on 100 correct pairs, and their pages are written to docs/sees.html and docs/style-only.html.
Both have lower losses than with zeros and noise, but only the first uses the pictures; the second only learnt the style
of the captions. The exit code is 1 if a page does not show this. Check the written files by eye.
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
"""Number of samples in the gallery of each page."""


def config_of(folder: Path, *overrides: str) -> Config:
    """Return the config of the tiny trial, shortened, with this folder as output_dir."""
    short = ["--threads", "1", "--data.max_samples", "null", "--train.tracker", "none"]
    return load_config(TINY, ["--output_dir", str(folder), "--ablation.gallery", str(SHOWN), *short, *overrides])


def trained(folder: Path, shift: int) -> Path:
    """Train with the caption `shift` rows after each image, hold out correct pairs, and return the last checkpoint."""
    prepare_data(config_of(folder))  # draws the scenes if they do not exist yet
    rows = json.loads(Path("data/scenes/scenes.json").read_text(encoding="utf-8"))
    pairs, held_out = rows[:TRAINED], rows[TRAINED : TRAINED + HELD_OUT]
    texts = [row["conversations"] for row in pairs]
    moved = texts[shift:] + texts[:shift]
    # Ids stay with the images: the preflight would reject rows whose id is the name of another image.
    mixed = [{**row, "conversations": text} for row, text in zip(pairs, moved, strict=True)]
    write_atomic(folder / "train.json", json.dumps(mixed))
    write_atomic(folder / "true.json", json.dumps(held_out))
    files = ["--data.json_file", str(folder / "train.json"), "--data.eval_json", str(folder / "true.json")]
    with redirect_stdout(sys.stderr):  # standard output is for the table
        # The preflight would stop training, because it detects that shifted captions do not match their images.
        return train(config_of(folder / "run", *files), force=bool(shift))


def shows(results: Results, sees: bool) -> bool:
    """Print the gates, and return whether their standings are the ones that the page is meant to show."""
    assert results.ablation is not None
    conditions = results.ablation.conditions
    for name in GATES:
        print(f"  {name:<9}{conditions[name].gap:+.4f}  {conditions[name].standing}")
    print(f"  {results.verdict}")
    expected = {"zero": "costs", "noise": "costs", "shuffled": "costs" if sees else "ruled out"}
    return all(conditions[name].standing == standing for name, standing in expected.items())


def two_connectors(output: Path) -> bool:
    """Train, score and write both pages, and return whether they show what they are meant to show."""
    right = []
    with tempfile.TemporaryDirectory() as name:
        for page, shift in (("sees", 0), ("style-only", 1)):
            results = ablate(trained(Path(name) / page, shift), conditions="full")
            write_atomic(output / f"{page}.html", render_html(results, docs=docs_link(output)))
            print(page)
            right.append(shows(results, sees=not shift))
    return all(right)


def whole_trial(output: Path, readme: Path) -> bool:
    """Run the trial, put its table into the README, and write its captions and first screen next to the pages."""
    with tempfile.TemporaryDirectory() as name, redirect_stdout(sys.stderr):
        results = trial(load_config(TINY, ["--output_dir", name, "--train.tracker", "none"]), conditions="full")
        shutil.copyfile(Path(name) / "samples.png", output / "samples.png")
        if CHROMIUM is None:
            sys.stderr.write("warning: Chromium was not found, so report.png is not changed\n")
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
    """Write a screenshot of the first screen of a page, made with Chromium."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
             "--window-size=1280,560", f"--screenshot={picture.resolve()}", page.resolve().as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def main() -> int:
    """Make all examples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder for pages and pictures")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="file whose table is replaced")
    arguments = parser.parse_args()
    right = [whole_trial(arguments.output, arguments.readme), two_connectors(arguments.output)]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
