"""The counts of the benchmark of public threads, and the page that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from eyechart.faults.table import FAULTS
from thread_outcome import Outcome

Rows = Mapping[str, Sequence["Row"]]
"""Results of each case, one for each seed."""


@dataclass(kw_only=True)
class Row(Outcome):
    """The result of one case with one seed; one line of the JSONL file. See `Case` for its fields."""

    name: str
    thread: str
    how: str
    stack: str
    family: str
    code: str
    twin: str
    seed: int
    also: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        """Codes of errors."""
        return [code for code, severity in self.findings if severity == "error"]

    @property
    def right(self) -> set[str]:
        """Codes that count as the right name."""
        return {self.code, *self.also, *(FAULTS[self.code].synonyms if self.code else ())}

    def noticed(self, twin: Row) -> bool:
        """Whether an error was found, or the right code at any severity; not what the healthy set-up has as well."""
        beyond = {found for found in self.findings if found not in twin.findings}
        return any(severity == "error" or code in self.right for code, severity in beyond)

    def named(self, twin: Row) -> bool:
        """Whether it was noticed, and the first code is the right one."""
        return self.noticed(twin) and self.findings[0][0] in self.right


@dataclass(frozen=True)
class Totals:
    """The figures on top of the page; a case counts if it counts with every seed."""

    threads: int
    noticed: int
    named: int
    healthy: int
    healthy_errors: int
    """Healthy set-ups with an error, or that do not run to the end, with any seed."""
    broken: int


def totals(rows: Rows) -> Totals:
    """Count."""
    cases = [(found, rows[found[0].twin]) for found in rows.values() if found[0].code and found[0].twin in rows]
    healthy = [found for found in rows.values() if not found[0].code]
    return Totals(
        threads=len(cases),
        noticed=sum(_in_all(found, twins, Row.noticed) for found, twins in cases),
        named=sum(_in_all(found, twins, Row.named) for found, twins in cases),
        healthy=len(healthy),
        healthy_errors=sum(any(row.errors or row.error for row in found) for found in healthy),
        broken=sum(row.broken for found in rows.values() for row in found),
    )


def _in_all(found: Sequence[Row], twins: Sequence[Row], holds: Callable[[Row, Row], bool]) -> bool:
    of_seed = {twin.seed: twin for twin in twins}
    return all(holds(row, of_seed[row.seed]) for row in found)


def reached(total: Totals) -> bool:
    """The target: every thread noticed, 80% named first, no error in a healthy set-up."""
    return (
        total.noticed == total.threads
        and total.named >= 0.8 * total.threads
        and not total.healthy_errors
        and not total.broken
    )


def as_line(row: Row) -> str:
    """One line of JSON, numbers to four digits."""
    return json.dumps(
        {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in vars(row).items()}
    )


def read(line: str) -> Row:
    """Back from JSON; a line without a name is not a result."""
    tree = json.loads(line)
    if "name" not in tree:
        return Row(name="", thread="", how="", stack="", family="", code="", twin="", seed=0)
    return Row(**{**tree, "findings": [(code, severity) for code, severity in tree["findings"]]})


_HEAD = """# Faults from public threads

Written by `make bench-threads`; do not edit. Each row of the first table is a public thread in which a model did not
see its images, or learned from the wrong labels, made again **from its cause**: in the collator, the processor, the
arguments, a patched function, the loss or the frozen parameters. Every case is a training of 20 steps on a tiny model
with random weights, on a CPU, with three seeds (in stacks with environments of their own, with as many as figures are
shown). The Trainer, TRL, LLaMA-Factory and ms-swift run with `eyechart.Callback`, the loop with `eyechart.watch` or
`eyechart.check_batch`. The models have no knowledge, so the figures of the trainers are not those of the threads; what
matters is whether they differ from the healthy figures. Versions:
{versions}.

| | now | first encounter |
|---|---|---|
| cases, of {threads} threads | {now.threads} | {first.threads} |
| noticed before the first update, with every seed | **{now.noticed}** | {first.noticed} |
| correct fault named first, with every seed | **{now.named}** | {first.named} |
| healthy set-ups | {now.healthy} | {first.healthy} |
| with an error | **{now.healthy_errors}** | {first.healthy_errors} |

**First encounter** is the result before any detector was changed because of this benchmark; [log.md](log.md) lists the
later changes. When the detectors were written, these threads were known, and single batches with the same causes were
among the tests. Even the first encounter is therefore not an estimate for other faults.

**Noticed** means an error, or the expected finding at its own severity; what the healthy set-up also has does not
count. **Named** means that it comes first. `watch` prints lines without codes: that no images arrive or nothing reads
them counts as `pixels-unused`, that they do not change the logits as `not-injected`. **Loss**, **accuracy** and
**gradient** are means of the last five steps, one number for each seed, as the stack itself shows them: healthy, then
broken; an exception stands in their place. Token accuracy is logged by TRL and ms-swift. **Stops** is what the callback
does by default, before the first update; to show what happens without, the trainings here went on. **Seconds** are
processor time from the beginning of the training to the finding; **checks** is what all checks cost, and beside it a
step, which is short on these models. On the healthy set-ups with the callback, the checks cost {steps:.0f} steps
(median), once, whatever the length of the training.
"""


_TAIL = """
## Stacks in environments of their own

LLaMA-Factory, ms-swift and axolotl are installed by `make stack-environments`, each with its own dependencies and a
build of torch for CPUs, and started by the function of their command (`run_exp`, `sft_main`, `do_cli`) with their
documentation's example: settings for GPUs (bf16, flash attention, DeepSpeed) are left out, and pictures, rows and
checkpoint are tiny. `benchmarks/launched/` has the lines that add eyechart. PyPI's torchvision does not load beside a
CPU build of torch, so its two missing operators are declared; torchaudio, which LLaMA-Factory imports, is an empty
module there.

| stack | versions |
|---|---|
{stacks}
"""


def render(rows: Rows, first: Rows, about: Mapping[str, Any]) -> str:
    """docs/threads.md; `about` has the versions of this environment, and of the stacks in environments of their own."""
    lines = [
        "\n## Threads\n",
        "| thread | cause | stack | loss | token accuracy | gradient norm | first finding | stops | at step | seconds "
        "| checks / step, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_line(found, rows[found[0].twin], first.get(found[0].name, ())) for found in rows.values() if found[0].code),
        "\n## Healthy set-ups\n",
        "| set-up | stack | loss | token accuracy | gradient norm | errors | warnings | notes | checks / step, s |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_healthy_line(found) for found in rows.values() if not found[0].code),
    ]
    head = _HEAD.format(
        versions=about["versions"],
        now=totals(rows),
        first=totals(first),
        steps=_cost_in_steps(rows),
        threads=_threads(rows),
    )
    stacks = "\n".join(f"| {stack} | {_cell(text)} |" for stack, text in about["stacks"].items())
    return head + "\n".join(lines) + "\n" + _TAIL.format(stacks=stacks)


def _threads(rows: Rows) -> int:
    """Return the number of different threads; two issues about one cause have one number."""
    return len({found[0].thread.partition(" ")[0] for found in rows.values() if found[0].code})


def _cost_in_steps(rows: Rows) -> float:
    """Return the median cost of the checks of healthy set-ups of the trainers, in steps of these trainings."""
    healthy = [row for found in rows.values() for row in found if not row.code and row.stack != "loop"]
    return median([row.checks / row.one_step for row in healthy if row.one_step] or [0.0])


def _line(found: Sequence[Row], twins: Sequence[Row], first: Sequence[Row]) -> str:
    row = found[0]
    error = next((one.error for one in found if one.error), "")
    shown = [_pair(twins, found, "loss"), _pair(twins, found, "accuracy"), _pair(twins, found, "gradient")]
    if error:
        shown[0] = f"{_values(twins, 'loss')}, then {error}"
    code = row.findings[0][0] if row.findings else "-"
    named = _in_all(found, twins, Row.named)
    mark = "" if named else " (not its name)" if _in_all(found, twins, Row.noticed) else " **missed**"
    before = sorted({one.findings[0][0] if one.findings else "nothing" for one in first} - {code})
    mark += f" (at first: {', '.join(before)})" if before else ""
    cells = [
        row.thread.partition(" ")[2],
        row.how,
        f"{row.stack}, {row.family}",
        *shown,
        code + mark,
        "yes" if row.stops else "-",
        "-" if row.step is None else str(row.step),
        "-" if row.seconds is None else f"{fmean(one.seconds or 0 for one in found):.2f}",
        _cost(found),
    ]
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _healthy_line(found: Sequence[Row]) -> str:
    row = found[0]
    of = {kind: sorted({code for one in found for code, severity in one.findings if severity == kind})
          for kind in ("error", "warning", "note")}  # fmt: skip
    errors = of["error"] + sorted({one.error for one in found if one.error})
    cells = [
        row.how,
        f"{row.stack}, {row.family}",
        *(_values(found, name) for name in ("loss", "accuracy", "gradient")),
        *(", ".join(codes) or "-" for codes in (errors, of["warning"], of["note"])),
        _cost(found),
    ]
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _pair(twins: Sequence[Row], found: Sequence[Row], name: str) -> str:
    healthy, broken = _values(twins, name), _values(found, name)
    return "-" if healthy == broken == "-" else f"{healthy}, then {broken}"


def _values(found: Sequence[Row], name: str) -> str:
    values = [getattr(row, name) for row in found]
    return "-" if None in values else " ".join(f"{value:.2f}" for value in values)


def _cost(found: Sequence[Row]) -> str:
    return f"{fmean(row.checks for row in found):.2f} / {fmean(row.one_step for row in found):.3f}"


def _cell(text: str) -> str:
    """One table cell: no line breaks, no bars, no tags that Markdown would take for HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")
