"""The counts of the fault benchmark, and the page that it writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from eyechart.faults.table import FAULTS


@dataclass(frozen=True)
class Row:
    """Result of one case; one line of the JSONL file."""

    name: str
    code: str
    """The injected fault; empty for healthy set-ups."""
    how: str
    where: str
    world: str
    also: list[str] = field(default_factory=list)
    """Codes that are also correct, because the change injects them too."""
    four: str = "could not run"
    """Verdict of the four runbook conditions alone: PASS, FAIL, INCONCLUSIVE, or `could not run`."""
    four_why: str = ""
    """The first reason of this verdict, or the error that prevented it."""
    ablated: str = ""
    """Overall verdict of `ablate`, including findings; empty if it could not run."""
    ablate_findings: list[tuple[str, str]] = field(default_factory=list)
    """(code, severity) of each finding of `ablate`."""
    diagnose_findings: list[tuple[str, str]] = field(default_factory=list)
    """(code, severity) of each finding of `diagnose` on the same checkpoint."""
    tried: str = ""
    """Overall verdict of `trial` on the finished run; empty if it could not run, if nothing was trained, or if
    the set-up is healthy."""
    tried_why: str = ""
    """The error that ended `trial`."""
    trial_findings: list[tuple[str, str]] = field(default_factory=list)
    """(code, severity) of each finding of `trial`."""
    ours: str = ""
    """When the tool reported it: `refused` (before training), `stopped` (during training), `diagnosed` (after it)."""
    findings: list[tuple[str, str]] = field(default_factory=list)
    """(code, severity) as a user sees them; if training was refused or stopped, the findings reported then."""
    message: str = ""
    """One line that is not a finding: the reason why a command rejected its input."""
    crash: str = ""
    """Unexpected error in the tool or in the benchmark itself."""
    seconds: float = 0.0
    """Processor time of the whole case, including training, in seconds with one thread."""
    diagnosing: float = 0.0
    """Seconds of processor time spent in `diagnose`."""

    @property
    def errors(self) -> list[str]:
        """Return the codes of errors."""
        return [code for code, severity in self.findings if severity == "error"]

    @property
    def warnings(self) -> list[str]:
        """Return the codes of warnings."""
        return [code for code, severity in self.findings if severity == "warning"]

    @property
    def agrees(self) -> bool:
        """Whether `trial`, `ablate` and `diagnose` report the same about a checkpoint that they could read."""
        return not self.differing

    @property
    def differing(self) -> list[tuple[str, str]]:
        """Return the findings of `trial` and `ablate` that `diagnose` has not, and those that only it has."""
        found = [set(self.ablate_findings)] * bool(self.ablated) + [set(self.trial_findings)] * bool(self.tried)
        return sorted(set[tuple[str, str]]().union(*(each ^ set(self.diagnose_findings) for each in found)))

    @property
    def contradicts(self) -> bool:
        """Whether `ablate` or `trial` reports PASS together with an error."""
        both = ((self.ablated, self.ablate_findings), (self.tried, self.trial_findings))
        return any(verdict == "PASS" and any(kind == "error" for _, kind in found) for verdict, found in both)

    @property
    def right(self) -> set[str]:
        """Codes that count as correct."""
        return {self.code, *self.also, *(FAULTS[self.code].synonyms if self.code else ())}

    @property
    def noticed(self) -> bool:
        """Whether the tool reported that something is wrong.

        It did if it reported an error, the injected code at any severity, or any finding together with a verdict other
        than PASS, or if a command rejected its input and gave the reason.
        """
        codes = {code for code, _ in self.findings}
        beside = bool(codes) and self.four in ("FAIL", "INCONCLUSIVE")
        return bool(self.errors or codes & self.right or beside or self.message)

    @property
    def named(self) -> bool:
        """Whether the first code is the injected one or a listed synonym."""
        return bool(self.findings) and self.findings[0][0] in self.right


@dataclass(frozen=True)
class Totals:
    """The figures at the top of the page."""

    injected: int
    codes: int
    """Number of different codes of the injected faults."""
    noticed: int
    named: int
    four: Counter[str]
    """Number of injected cases by the verdict of the four conditions."""
    healthy: int
    healthy_errors: int
    healthy_warnings: int
    healthy_four: Counter[str]
    crashes: int
    disagreeing: int
    """Cases in which `trial`, `ablate` and `diagnose` report different things about one checkpoint."""
    contradicting: int
    """Cases in which a PASS has an error among its findings."""
    seconds: float
    """Processor time of all cases in seconds."""


def totals(rows: Sequence[Row]) -> Totals:
    """Count."""
    injected, healthy = [r for r in rows if r.code], [r for r in rows if not r.code]
    return Totals(
        injected=len(injected),
        codes=len({r.code for r in injected}),
        noticed=sum(r.noticed for r in injected),
        named=sum(r.named for r in injected),
        four=Counter(r.four for r in injected),
        healthy=len(healthy),
        healthy_errors=sum(len(r.errors) + bool(r.message) for r in healthy),
        healthy_warnings=sum(len(r.warnings) for r in healthy),
        healthy_four=Counter(r.four for r in healthy),
        crashes=sum(bool(r.crash) for r in rows),
        disagreeing=sum(not r.agrees for r in rows),
        contradicting=sum(r.contradicts for r in rows),
        seconds=sum(r.seconds for r in rows),
    )


def missed(rows: Sequence[Row]) -> list[Row]:
    """Return injected faults that were not noticed or not named, healthy set-ups with findings, and crashes."""
    return [
        r
        for r in rows
        if r.crash
        or not r.agrees
        or r.contradicts
        or (r.code and not r.named)
        or (not r.code and (r.errors or r.warnings))
    ]


def reached(total: Totals) -> bool:
    """Return whether the target is met.

    All faults must be noticed and 95% named; healthy set-ups must have no error and together at most one warning; and
    no case may crash.
    """
    return (
        total.noticed == total.injected
        and total.named >= 0.95 * total.injected
        and total.healthy_errors == 0
        and total.healthy_warnings <= 1
        and total.crashes == total.contradicting == total.disagreeing == 0
    )


_HEAD = """# The fault benchmark

Written by `make bench-faults`; do not edit. Every row is a run on the tiny backbones of this repository:
{trained} samples trained for two epochs, {held_out} held out. A fault is one small change to the data, the config, a
file, or one function (patched from outside; the package has no switch for it). The detectors test mechanisms, and this
page shows how well they detect these changes. We wrote the changes and knew them when the detectors were last improved,
so the results are not an estimate for other faults. Results on injected faults that were new to the detectors are in
[log.md](log.md).

## Totals

| | {total.injected} injected faults of {total.codes} kinds |
|---|---|
| noticed | **{total.noticed}** ({noticed:.0%}) |
| correct fault named first | **{total.named}** ({named:.0%}) |
| noticed by the four conditions alone (FAIL) | {four[FAIL]} |
| INCONCLUSIVE with them | {four[INCONCLUSIVE]} |
| missed by them (PASS) | {four[PASS]} |
| they could not run | {not_run} |
| `ablate` or `trial` says PASS beside an error | {total.contradicting} |
| `trial`, `ablate` and `diagnose` say different things (of all cases) | {total.disagreeing} |

| | {total.healthy} healthy set-ups |
|---|---|
| errors | **{total.healthy_errors}** |
| warnings | **{total.healthy_warnings}** |
| verdict of the four conditions | {healthy_four} |

{crashes}

**Noticed** means that the tool reports an error, or the injected fault at its own severity (some are warnings or
notes), or any finding together with a verdict other than PASS, or that a command rejects its input and gives the
reason. **Named** means that the first code in its output is the injected one, a synonym listed in `faults.py` (without
a reference, mismatched pairs cannot be distinguished from a constant prompt), or a code that the same change also
injects. The order is the one that a user sees: first the errors of the preflight of `train`; if there are none, the
findings of training; then `diagnose` with the checkpoint. Where the preflight stopped training, training was forced, so
that the four conditions could be scored.

**The four conditions alone** are correct, shuffled, zero and noise of `qwen3-vlm ablate --conditions runbook`, with
that command's own statistics. Where they could not run, training or loading ended with an error, which shows that
something is wrong but rarely what.
"""


def render(rows: Sequence[Row], trained: int, held_out: int) -> str:
    """docs/fault-benchmark.md."""
    total = totals(rows)
    page = _HEAD.format(
        total=total,
        trained=f"{trained:,}",
        held_out=held_out,
        noticed=total.noticed / max(1, total.injected),
        named=total.named / max(1, total.injected),
        four=total.four,
        not_run=total.four["could not run"],
        healthy_four=", ".join(f"{verdict} {count}" for verdict, count in sorted(total.healthy_four.items())),
        crashes=f"{total.crashes or 'No'} case{'s' if total.crashes != 1 else ''} crashed. "
        f"All cases together took {total.seconds / 60:.0f} minutes of processor time; seconds below are also "
        "processor time.",
    )
    lines = [
        "\n## Injected faults\n",
        "| case | fault | injected how | when | four conditions | ablate | tool | named first | other findings | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows if row.code),
        "\n## Healthy set-ups\n",
        "| set-up | what it is | four conditions | errors | warnings | notes | s |",
        "|---|---|---|---|---|---|---|",
        *(_healthy_line(row) for row in rows if not row.code),
    ]
    return page + "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    first = row.findings[0][0] if row.findings else "-"
    mark = "" if row.named else " (not its name)" if row.noticed else " **missed**"
    others = list(dict.fromkeys(code for code, _ in row.findings[1:]))
    did = row.crash or row.ours or row.message
    cells = [
        row.name,
        row.code,
        f"{row.how} ({row.world})",
        row.where,
        row.four,
        (row.ablated or "-") + ("" if row.agrees else " (not as diagnose)"),
        did,
        first + mark,
        ", ".join(others) or "-",
        f"{row.seconds:.0f}",
    ]
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _healthy_line(row: Row) -> str:
    notes = [code for code, severity in row.findings if severity == "note"]
    errors = [*row.errors, *([row.message] if row.message else []), *([row.crash] if row.crash else [])]
    cells = [
        row.name,
        f"{row.how} ({row.world})",
        row.four,
        ", ".join(errors) or "-",
        ", ".join(row.warnings) or "-",
        ", ".join(notes) or "-",
        f"{row.seconds:.0f}",
    ]
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """Return a table cell without line breaks, bars, and tags that Markdown would interpret as HTML."""
    return " ".join(text.split()).replace("|", "\\|")[:200]
