"""Reads damaged data files and images. Whatever the bytes are, the result must be data or a one-line error.

    python benchmarks/fuzz.py --json 5000 --images 2000
    python benchmarks/fuzz.py --json 0 --images 0 --only "named pipe"

Every case is a valid file with one to three mutations, drawn from the seed and the number of the case, or one of the
files of `fuzz_bombs`, which are made to hang a reader or to fill the memory. The following are failures: a traceback, a
message of several lines, a crash in C, a case that exceeds its time limit, and memory growth above its limit. Cases run
in forked processes, so that even a hang in C is detected. The exit code is 0 without failures, otherwise 1.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "eyechart" / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch  # noqa: E402

from eyechart.data.images import ImageError, ImageSpec, load_image
from eyechart.data.reader import count_rows, read_rows
from eyechart.exits import guarded
from eyechart.seam import Reject
from fuzz_bombs import bombs  # noqa: E402
from fuzz_mutations import BYTE_MUTATIONS, TREE_MUTATIONS, Draw, base_images, base_rows  # noqa: E402
from qwen3_vlm.config import PromptConfig
from qwen3_vlm.data.prompt import PromptBuilder
from tiny_rows import make_tokenizer  # noqa: E402

SECONDS = 10.0
"""Time limit of one case, with a margin for a busy machine."""
GROWTH_MB = 300.0
"""Limit on the memory growth of a process that runs cases. It is meaningful because of the pixel limit below."""
BOMB_GROWTH_MB = 1000.0
"""The same for a file that is made to fill the memory, on top of what making it takes."""
MAX_PIXELS = 4_000_000
SPEC = ImageSpec(16, 16, (0.5,) * 3, (0.5,) * 3, 2, 1 / 255)
CHUNK = 250

Case = Callable[[Draw, Path], str]
"""Makes one case in a folder, reads it, and returns the outcome; raises if the reading code fails."""


def json_case() -> Case:
    """Return a case of rows: a list or lines, gzipped or not, mutated as a tree or as bytes, then read and encoded."""
    prompts = PromptBuilder(make_tokenizer(), PromptConfig(), 4, 64)
    rows = base_rows()

    def case(draw: Draw, folder: Path) -> str:
        text = json.dumps(rows) if draw.random() < 0.7 else "\n".join(map(json.dumps, rows))
        if draw.random() < 0.6:
            text = draw.choice(TREE_MUTATIONS)(draw, rows)
        data = text.encode("utf-8", "surrogatepass")
        packed = draw.random() < 0.2
        if packed and draw.random() < 0.5:
            data, packed = gzip.compress(data, 1), False
        if draw.random() < 0.6:
            data = mutate(draw, data)
        path = folder / "data.json"
        path.write_bytes(gzip.compress(data, 1) if packed else data)
        return read_json(path, prompts)

    return case


def read_json(path: Path, prompts: PromptBuilder) -> str:
    """Read the file as the commands do, and raise errors that would end a command with a code other than bad input."""
    seen: list[str] = []

    def command() -> int:
        records, rejects = read_rows(path)
        encoded = prompts.encode(records)
        assert len(records) + len(rejects) == count_rows(path), "rows were lost"
        unusable = [*rejects, *(item for item in encoded if isinstance(item, Reject))]
        assert all("\n" not in f"{r.reason}{r.detail}" and len(r.detail) < 1000 for r in unusable), "a long reason"
        seen.append("result, with rejected rows" if unusable else "result")
        return 0

    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        code = guarded(command)
    message = err.getvalue()
    assert code == 0 or (code == 2 and message.count("\n") == 1 and len(message) < 2000), (
        f"exit {code}: {message[:500]}"
    )
    return seen[0] if code == 0 else "clear error"


def image_case() -> Case:
    """Return a case of a small image in one of many formats, whose bytes are mutated and then decoded."""
    bases = base_images()

    def case(draw: Draw, folder: Path) -> str:
        path = folder / "image"
        path.write_bytes(mutate(draw, draw.choice(bases)))
        try:
            pixels_CHW = load_image(path, SPEC, MAX_PIXELS)
        except ImageError as error:
            assert "\n" not in str(error) and 0 < len(error.detail) < 400, f"an unclear message: {error}"
            return "clear error"
        assert pixels_CHW.shape == (3, 16, 16) and pixels_CHW.dtype == torch.uint8
        return "result"

    return case


def mutate(draw: Draw, data: bytes) -> bytes:
    """Apply one to three mutations to bytes."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        data = draw.choice(BYTE_MUTATIONS)(draw, data)
    return data


@dataclass
class Report:
    """The outcomes of all cases of one kind."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    """Seconds."""
    growth_mb: float = 0.0

    def line(self) -> str:
        """Return the row of the table."""
        counts = [self.outcomes[k] for k in ("result", "result, with rejected rows", "clear error")]
        cells = [self.name, sum(counts) + len(self.failures), *counts, len(self.failures)]
        return f"| {' | '.join(map(str, cells))} | {self.slowest:.2f} | {self.growth_mb:.0f} |"


TABLE_HEAD = (
    "| mutated | cases | result | with rejected rows | clear error | failures | slowest, s | memory growth, MB |\n"
    "|---|---|---|---|---|---|---|---|"
)


def fuzz(name: str, case: Case, count: int, seed: int = 0, seconds: float = SECONDS) -> Report:
    """Run `count` cases in forked processes."""
    report, done = Report(name), 0
    while done < count:
        stop = min(count, done - done % CHUNK + CHUNK)
        done = _in_a_process(case, range(done, stop), seed, seconds, report)
    return report


def explode(cases: Mapping[str, Case], seconds: float = SECONDS) -> Report:
    """Run each of the files of `fuzz_bombs` once, in a process and a folder of its own."""
    report = Report("bomb")
    for name, case in cases.items():
        before = len(report.failures)
        _in_a_process(case, range(1), 0, seconds, report, BOMB_GROWTH_MB)
        report.failures[before:] = [f"{name}: {failure}" for failure in report.failures[before:]]
    return report


def _in_a_process(
    case: Case, numbers: Sequence[int], seed: int, seconds: float, report: Report, growth_mb: float = GROWTH_MB
) -> int:
    """Run cases until all are done or the process has ended, and return the number of the next case."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(read_end)
        with os.fdopen(write_end, "w") as out, tempfile.TemporaryDirectory() as folder:
            _run(case, numbers, seed, Limits(seconds, growth_mb), Path(folder), out)
        os._exit(0)
    os.close(write_end)
    next_number = numbers[0]
    with os.fdopen(read_end) as lines:
        for line in lines:
            told = json.loads(line)
            next_number += 1
            report.slowest = max(report.slowest, told["seconds"])
            report.growth_mb = max(report.growth_mb, told["growth_mb"])
            if told["failure"]:
                report.failures.append(f"{report.name} {next_number - 1}: {told['failure']}")
            else:
                report.outcomes[told["outcome"]] += 1
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if next_number <= numbers[-1]:
        how = f"took longer than {seconds:g} s" if status == -signal.SIGALRM else f"ended the process ({status})"
        report.failures.append(f"{report.name} {next_number}: {how}")
        next_number += 1
    return next_number


@dataclass(frozen=True)
class Limits:
    """What a case may take."""

    seconds: float
    growth_mb: float


def _run(
    case: Case, numbers: Sequence[int], seed: int, limits: Limits, folder: Path, out: io.TextIOBase | io.TextIOWrapper
) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 if limits.growth_mb > GROWTH_MB else None
    for number in numbers:
        outcome, failure = "", ""
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, limits.seconds)
        try:
            outcome = case(random.Random(f"{seed} {number}"), folder)
        except BaseException as error:  # the reading code should have handled any error
            failure = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        before = peak if before is None else before
        if peak - before > limits.growth_mb and not failure:
            failure = f"memory grew by {peak - before:.0f} MB, more than {limits.growth_mb:g}"
            before = peak
        told = {"outcome": outcome, "failure": failure, "seconds": time.monotonic() - began, "growth_mb": peak - before}
        out.write(json.dumps(told) + "\n")
        out.flush()


def main() -> int:
    """Print the table and every failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=int, default=5000, help="mutated data files")
    parser.add_argument("--images", type=int, default=2000, help="mutated images")
    parser.add_argument("--only", default="", help="of the files made to hang a reader, those with this in their name")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # forking a process with a thread pool is not safe
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    reports = [
        fuzz("data file", json_case(), options.json, options.seed),
        fuzz("image", image_case(), options.images, options.seed),
        explode({name: case for name, case in bombs().items() if options.only in name}),
    ]
    print("\n".join([TABLE_HEAD, *(report.line() for report in reports)]))
    failures = [failure for report in reports for failure in report.failures]
    print("\n".join(failures[:50]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
