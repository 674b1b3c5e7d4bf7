"""Tests whether pip's resolver accepts eyechart together with common training stacks, and writes docs/stacks.md.

    python benchmarks/stacks.py

Only pip itself is installed, in a temporary virtual environment: the resolver is run (`--dry-run`) for each stack
alone, as a control, and then together with eyechart. A stack that does not resolve alone is reported as such; this does
not depend on eyechart. Versions that change because of eyechart are listed: there should be none.

Exit code 0 if every stack that resolves alone also resolves with eyechart, otherwise 1.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STACKS = ("llamafactory==0.9.5", "axolotl==0.19.0", "ms-swift==4.6.0", "unsloth==2026.10.9", "trl==1.16.0")
SHOWN = ("transformers", "torch", "pydantic", "pillow", "numpy", "scipy", "msgspec")
SECONDS = 900
"""Time limit for one resolver run; a run that takes longer counts as unanswered."""
_CONSTRAINT = re.compile(r"^ {4}(?!The user requested )(.+ depends on .+)$", flags=re.MULTILINE)


@dataclass(frozen=True)
class Answer:
    """Result of the resolver: versions by package, or why there are none."""

    versions: dict[str, str]
    conflict: str = ""
    seconds: float = 0.0


def main() -> int:
    """Resolve every stack, print the table and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stacks", nargs="+", default=list(STACKS), metavar="NAME==VERSION")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "stacks.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = _environment(Path(folder))
        answers = {stack: (_ask(python, [stack]), _ask(python, [stack, str(ROOT / "eyechart")]))
                   for stack in options.stacks}  # fmt: skip
    page = _page(answers)
    options.output.write_text(page, encoding="utf-8")
    print(page)
    return int(any(alone.versions and not beside.versions for alone, beside in answers.values()))


def _environment(folder: Path) -> Path:
    """Make a virtual environment with only the newest pip, and return the path of its Python."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
    return python


def _ask(python: Path, requirements: list[str]) -> Answer:
    """Let pip resolve `requirements` for an empty environment."""
    command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    start = time.monotonic()
    try:
        done = subprocess.run(
            [*command, *requirements], capture_output=True, text=True, timeout=SECONDS, cwd=python.parent, check=False
        )
    except subprocess.TimeoutExpired:
        return Answer({}, f"no answer within {SECONDS} s", SECONDS)
    seconds = time.monotonic() - start
    print(f"{' '.join(Path(r).name for r in requirements)}: {done.returncode}, {seconds:.0f} s", file=sys.stderr)
    if done.returncode:
        return Answer({}, _conflict(done.stderr), seconds)
    installed = [item["metadata"] for item in json.loads(done.stdout)["install"]]
    return Answer({_normal(item["name"]): item["version"] for item in installed}, "", seconds)


def _conflict(stderr: str) -> str:
    """Return the requirements that exclude each other, or the last error."""
    lines = _CONSTRAINT.findall(stderr) or re.findall(r"^ERROR: (.+)$", stderr, flags=re.MULTILINE)[-1:]
    return "; ".join(dict.fromkeys(lines)) or "no reason given"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _page(answers: dict[str, tuple[Answer, Answer]]) -> str:
    lines = [
        "# Installing alongside other trainers",
        "",
        "<!-- Written by `python benchmarks/stacks.py` (`make bench-stacks`). -->",
        "",
        "pip's resolver was asked to install each stack into an empty environment, alone and together with eyechart, on"
        f" Python {sys.version_info.major}.{sys.version_info.minor}; nothing was installed. The versions are those"
        " chosen with eyechart; *moved* lists versions that differ from those without it.",
        "",
        f"| stack | version | {' | '.join(SHOWN)} | moved | answer |",
        f"|---|---|{'---|' * len(SHOWN)}---|---|",
    ]
    for stack, (alone, beside) in answers.items():
        name, _, version = stack.partition("==")
        shown = beside.versions or alone.versions
        moved = [f"{key} {old} -> {beside.versions[key]}" for key, old in alone.versions.items()
                 if beside.versions.get(key, old) != old]  # fmt: skip
        cells = [name, version, *(shown.get(key, "-") for key in SHOWN), ", ".join(moved) or "-", _said(alone, beside)]
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _said(alone: Answer, beside: Answer) -> str:
    if alone.versions and beside.versions:
        return "accepted"
    if alone.versions:
        return f"refused: {beside.conflict}"
    return f"does not resolve without eyechart either: {alone.conflict}"


if __name__ == "__main__":
    sys.exit(main())
