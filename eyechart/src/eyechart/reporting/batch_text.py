"""Writes the result of `check_batch` as text: findings, figures of the batch, and what could not be checked."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby

from eyechart.faults.batch_check import BatchFacts
from eyechart.faults.batch_evidence import Check, Unchecked, Why
from eyechart.faults.table import page_of
from eyechart.plain import one_line
from eyechart.processors.answers import Way
from eyechart.processors.image_ids import IdSource
from eyechart.reporting.explanation import consequence
from eyechart.reporting.wording import number, percent
from eyechart.results import Finding

_WIDTH = 100

CHECKS = {
    Check.PLACEHOLDERS: "image positions",
    Check.VISUAL_TOKENS: "image positions against visual tokens",
    Check.ANSWERS: "whether answers are complete",
    Check.LABELS: "labels",
    Check.PADDING: "padding",
    Check.POSITIONS: "position ids",
    Check.IDS: "ids against the model's vocabulary",
    Check.PIXELS: "whether the model accepts the pixels",
    Check.NORMALISATION: "normalisation of the pixels",
    Check.RESOLUTION: "resolution of the images",
}
"""The words for each check that was not made."""
REASONS = {
    Why.NO_PROCESSOR: "pass the processor: check_batch(batch, processor)",
    Why.NO_MODEL: "pass the model: check_batch(batch, processor, model)",
    Why.NO_IMAGES: "the batch has no images",
    Why.NO_TEMPLATE: "the processor has no chat template that marks answers",
    Why.NOT_IN_BATCH: "not part of the batch",
    Why.NOT_ASSIGNED: "it is not known which images belong to which row",
    Why.UNKNOWN_FORM: "this processor stores it in an unknown form",
    Why.COARSE: "the values are not those of known settings (augmented or coarse), so only their range was compared",
}
"""The words for each reason why a check was not made."""
_IDS = {
    IdSource.CONFIG: "from the model's config",
    IdSource.PROCESSOR: "from the processor",
    IdSource.TOKEN_TYPES: "recognised by the token types",
    IdSource.RUNS: "recognised as the longest run of equal ids",
}
_ANSWERS = {
    Way.TEMPLATE: "found by the chat template",
    Way.TOKEN_TYPES: "found by the token types",
    Way.LABELS: "taken from the labels",
}


def batch_text(findings: list[Finding], facts: BatchFacts, unchecked: list[Unchecked]) -> str:
    """Return one screen of text for `print`."""
    lines = [verdict_of(findings), *finding_lines(findings), *wrapped(f"Checked: {looked_at(facts)}", 0)]
    lines += [line for sentence in not_checked(unchecked) for line in wrapped(sentence, 0)]
    return "\n".join(lines)


def verdict_of(findings: list[Finding], what: str = "batch") -> str:
    """Return the first line: how many findings there are of each severity. `what` is what was checked."""
    counts = [(name, sum(f.severity == name for f in findings)) for name in ("error", "warning", "note")]
    said = ", ".join(number(count, name) for name, count in counts if count)
    return f"{what}: {said or 'no fault found'}"


def looked_at(facts: BatchFacts) -> str:
    """Return the figures of the batch as one sentence."""
    parts = [f"{number(facts.rows, 'row')} of {facts.length} tokens ({facts.attended:,} without padding)"]
    if facts.images or facts.placeholders:
        source = _IDS.get(facts.image_id_source, "")
        known = "of unknown id" if facts.image_id is None else f"(id {facts.image_id}, {source})"
        parts.append(
            f"{number(facts.images, 'image')} or tiles, {number(facts.placeholders, 'image position')} {known} in "
            f"{number(facts.rows_with_images, 'row')}"
        )
    else:
        parts.append("no images")
    if facts.answers_found is Way.NONE:
        parts.append("answers not found")
    else:
        parts.append(f"{number(facts.answer_tokens, 'answer token')} {_ANSWERS[facts.answers_found]}")
    if facts.labels:
        share = (facts.labels_on_answers or 0) / facts.labels
        parts.append(f"{number(facts.labels, 'label')}, {percent(share)} of them on answers")
    else:
        parts.append("no labels")
    return "; ".join(parts)


def not_checked(unchecked: Iterable[Unchecked]) -> Iterator[str]:
    """Yield one sentence for each reason, with the checks that were not made because of it."""
    by_reason = sorted(unchecked, key=lambda one: list(Why).index(one.why))
    for why, several in groupby(by_reason, lambda one: one.why):
        yield f"Not checked: {', '.join(CHECKS[one.check] for one in several)} ({REASONS[why]})"


def wrapped(text: str, indent: int) -> list[str]:
    """Wrap a paragraph into lines with a hanging indent."""
    margin = " " * indent
    return textwrap.wrap(
        one_line(text), _WIDTH, initial_indent=margin, subsequent_indent=f"{margin}  ", break_on_hyphens=False
    )


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield each finding with its fix and its page, wrapped."""
    for found in findings:
        yield from wrapped(f"{found.severity} {found.code}: {found.message}", 0)
        if found.explained_by:
            yield from wrapped(consequence(found), 2)
        yield from wrapped(f"Fix: {found.fix}", 2)
        yield f"  {page_of(found.code)}"
