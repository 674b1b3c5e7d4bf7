"""Makes the tiles at the top of report.html: the main figures, each with its result in words and in colour.

The *standing* of a figure states whether the figure exceeds its margin: `costs` (yes), `ruled out` (no) or `open`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eyechart.reporting import readings
from eyechart.reporting.wording import percent, plain, signed
from eyechart.results import Ablation, Coverage, Matching, Results, Standing

_STOOD_FOR = {"shuffled": "Another picture", "zero": "Zeros", "noise": "Noise"}
_STATES: dict[Standing, str] = {"costs": "good", "ruled out": "bad", "open": "open"}
_STANDINGS = {"good": "exceeds its margin", "bad": "does not exceed its margin", "open": "not decided"}
_CHANCE = {"good": "above chance", "bad": "not above chance", "open": "not decided"}


@dataclass(frozen=True)
class Tile:
    """One of the main figures of the report."""

    label: str
    value: str
    note: str
    state: str
    """`good`, `bad` or `open`, which determines the tile's colour; `state_text` states the result in words."""
    state_text: str
    definition: str
    """The key of the definition (`reporting.definitions`) to which the label links."""
    primary: bool = False


def tiles(results: Results) -> Iterator[Tile]:
    """Yield the tiles in their order on the page.

    The first is the primary gate: the condition `shuffled`. It is followed by matching (whether captions find their own
    picture), the other gates (conditions that decide the verdict), and the truncated captions of check 2.
    """
    ablation, coverage = results.ablation, results.coverage
    if ablation:
        names = [name for name in readings.GATES if name in ablation.conditions]
        gates = [_gate_tile(name, ablation) for name in names]
        yield from gates[:1]
        if ablation.matching and ablation.matching.r_at_1.value is not None:
            yield _matching_tile(ablation.matching, ablation.matching.r_at_1.value)
        yield from gates[1:]
    if coverage:
        yield _coverage_tile(coverage)


def _gate_tile(name: str, ablation: Ablation) -> Tile:
    label, condition = f"{_STOOD_FOR[name]} ({name})", ablation.conditions[name]
    if condition.gap is None or condition.standing is None:
        return Tile(label, "no gap", "a loss is not finite", "bad", "not finite", "gap")
    limit = f"must exceed {condition.margin:g}"
    sure = f"99% lower bound {signed(condition.lower99)}, {limit}" if condition.lower99 is not None else limit
    state, primary = _STATES[condition.standing], name == "shuffled"
    note = f"nats per token lost; {sure}"
    return Tile(label, signed(condition.gap), note, state, _STANDINGS[state], "gap", primary)


def _matching_tile(matching: Matching, value: float) -> Tile:
    state = _STATES[matching.r_at_1.standing or "open"]
    chance = percent(1 / matching.k)
    note = f"of {matching.captions:,} captions are likeliest with their own among {matching.k} images; chance {chance}"
    return Tile("Own picture found (R@1)", percent(value), note, state, _CHANCE[state], "matching", primary=True)


def _coverage_tile(coverage: Coverage) -> Tile:
    too_many = any(reason.code == "truncated-too-many" for reason in coverage.reasons)
    failed = "too many" if too_many else "check 2 fails for another reason"
    states = {"PASS": ("good", "within the limits"), "FAIL": ("bad", failed)}
    state, words = states.get(coverage.verdict, ("open", "not decided"))
    note = f"of {coverage.samples:,} {counted(coverage)}captions at max_seq_len {coverage.max_seq_len}"
    return Tile("Truncated captions", f"{plain(coverage.truncated_pct)}%", note, state, words, "coverage")


def counted(coverage: Coverage) -> str:
    """Return `training ` or `held-out `, to precede `captions` or `samples`; empty if the data are not split."""
    return {"train": "training ", "eval": "held-out ", None: ""}[coverage.split]


def source(coverage: Coverage) -> str:
    """Return a phrase that states which rows the counts of check 2 come from."""
    if coverage.source == "training":
        return f"training epoch {coverage.epoch}"
    if coverage.source == "score":
        return "the requested rows"
    opened = "" if coverage.images_opened else ", images not opened"
    return f"audit of the {counted(coverage)}rows{opened}"
