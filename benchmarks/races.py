"""Starts two commands in one folder at the same time; afterwards the folder must be that of one run.

    python benchmarks/races.py --n 200

Each race draws two commands (trial, train, ablate, report) and a delay. One of the two may be refused because the other
holds the folder; otherwise both must end as they do alone. Then no file may be of another run, unlisted or left over.
Races are recorded in a file and continued from there. The exit code is 0 if no race had a problem, otherwise 1.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "eyechart" / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from forked import done_before, options_of, prepare, problems, record, start, wait  # noqa: E402
from qwen3_vlm.cli import main as cli  # noqa: E402
from tiny_runs import TinyWorld, make_world  # noqa: E402

RUN = {"train__epochs": 1, "train__accumulation": 1, "train__canary": False}
PAIRS = [
    ("trial", "trial"),
    ("train", "train"),
    ("ablate", "ablate"),
    ("report", "report"),
    ("trial", "ablate"),
    ("train", "report"),
    ("ablate", "report"),
    ("trial", "train"),
]
_VERDICTS = {0, 1, 3}
_ALONE = {"trial": _VERDICTS, "ablate": _VERDICTS, "train": {0}, "report": {0}}
_LONGEST_DELAY = 1.0


def command_of(kind: str, world: TinyWorld, folder: Path) -> list[str]:
    """Return the arguments of a command that writes to `folder`."""
    config = str(world.config_file(folder.name, **RUN))
    return {
        "trial": ["trial", "--config", config, "--overwrite", "--conditions", "runbook"],
        "train": ["train", "--config", config, "--overwrite"],
        "ablate": ["ablate", "--checkpoint", str(folder / "checkpoint_5.pt"), "--conditions", "runbook"],
        "report": ["report", str(folder)],
    }[kind]


def race(number: int, world: TinyWorld, model: Path) -> dict[str, object]:
    """Run race `number`, which depends only on its number, and return what happened."""
    draw = random.Random(number)
    pair, delay = PAIRS[number % len(PAIRS)], draw.uniform(0, _LONGEST_DELAY)
    folder = world.root / f"race_{number}"
    shutil.copytree(model, folder)
    outputs = [world.root / f"output_{number}_{i}" for i in range(2)]
    pids = []
    for kind, output in zip(pair, outputs, strict=True):
        pids.append(start(partial(cli, command_of(kind, world, folder)), output))
        time.sleep(delay if len(pids) == 1 else 0)
    codes, said = [wait(pid) for pid in pids], [output.read_text() for output in outputs]
    found = []
    refused = [code == 2 and "is being written by process" in text for code, text in zip(codes, said, strict=True)]
    gone = {"trial", "train"} & set(pair)
    for kind, code, text, was_refused in zip(pair, codes, said, refused, strict=True):
        # `report` and `ablate` find no results or no checkpoint if a new run has begun in the folder before them.
        missing = gone and kind in ("report", "ablate") and code == 2 and "no such checkpoint" in text + "cannot read"
        if code not in _ALONE[kind] and not was_refused and not (missing or (gone and "cannot read results" in text)):
            found.append(f"{kind} ended with {code}: {text[-300:]}")
    if all(refused):
        found.append("both were refused")
    found += problems(folder)
    for path in (*outputs, folder):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {"race": number, "pair": "+".join(pair), "refused": sum(refused), "problems": found}


def main() -> int:
    """Run the races that are missing, and print a table."""
    options = options_of(__doc__, "races", 200)
    begun = len(done_before(options.record))
    if begun < options.n:
        prepare()
        with tempfile.TemporaryDirectory() as root:
            world = make_world(Path(root))
            model = world.root / "model"
            cli(["trial", *command_of("trial", world, model)[1:]])
            for number in range(begun, options.n):
                result = race(number, world, model)
                record(result, options.record)
    done = done_before(options.record)[: options.n]
    count: Counter[str] = Counter(str(race["pair"]) for race in done)
    refused: Counter[str] = Counter(str(race["pair"]) for race in done if race["refused"])
    print("| commands | races | one was refused |\n|---|---|---|")
    for pair in count:
        print(f"| {pair} | {count[pair]} | {refused[pair]} |")
    wrong = [race for race in done if race["problems"]]
    print(f"races with a problem: {len(wrong)} of {len(done)}")
    for bad in wrong:
        print(bad)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
