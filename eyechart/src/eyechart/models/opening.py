"""Makes a scorer (`eyechart.seam`) from a live model and its batches.

A door is a way to replace the model's image features or pixels (`doors`). The scorer uses the first door with which the
model passes the self-tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from eyechart.exits import InputError
from eyechart.models.collated import Collated, RowInput
from eyechart.models.doors import Door, PixelDoor, feature_doors
from eyechart.models.gate import FeatureGate
from eyechart.models.layout import LayoutError
from eyechart.models.live import LiveScorer
from eyechart.models.live_model import LiveModel
from eyechart.models.selftests import SelfTest, UnfitError, failures
from eyechart.processors.answers import Way
from eyechart.results import Remark, RemarkCode
from eyechart.seam import Batch

_TESTED = 2
"""The number of samples used in the self-tests; two are enough to detect that rows are mixed up."""
_OF_PIXELS: tuple[SelfTest, ...] = (SelfTest.REPEAT, SelfTest.KEPT, SelfTest.CAUSAL)
"""The self-tests that a model must pass with the pixel door; the other tests apply only to replaced features."""
_OTHER_DOOR: tuple[SelfTest, ...] = (SelfTest.OWN_FEATURES, SelfTest.SENTINEL, SelfTest.LEAK)
"""The self-tests of replaced features. If one of them fails, the next door is tried, because the picture may reach the
language model by a path that this door does not replace."""


def read_batches(
    batches: Iterable[Mapping[str, Any]], processor: Any, config: Any, most: int | None = None
) -> list[Collated]:
    """Read batches of a collator until they contain at least `most` rows; None reads all batches.

    Raises:
        InputError: there are no batches, or a batch cannot be read.
    """
    found: list[Collated] = []
    rows = 0
    for number, batch in enumerate(batches):
        found.append(Collated.read(batch, processor, config, number, rows))
        rows += found[-1].geometry.rows
        if most is not None and rows >= most:
            break
    if not found:
        raise InputError("rows: expected at least one batch, got none", "pass a data loader or a list of batches")
    return found


def open_live(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    processor: Any = None,
    most: int | None = None,
    evaluating: bool = True,
) -> LiveScorer:
    """Adapt a live model to the scoring interface.

    Args:
        model: a transformers model, possibly inside wrappers such as DDP or PEFT.
        batches: batches as the model's collator returns them.
        processor: the model's processor or tokenizer; without it, answers are found by token types or labels.
        most: the number of rows after which reading stops; None reads all batches.
        evaluating: True to run the model in eval mode, False to run it in its current mode.

    Raises:
        InputError: the batches or the model cannot be used.
        UnfitError: the model fails a self-test with every door; the message explains what this means.
    """
    live = LiveModel(model, evaluating)
    sources = read_batches(batches, processor, live.config, most)
    with live.running(), torch.no_grad():
        return _opened(live, sources)


def _opened(live: LiveModel, sources: Sequence[Collated]) -> LiveScorer:
    place = next(((s, p) for s in sources for p in range(s.geometry.rows) if s.shows_image(p)), None)
    if place is None:
        return LiveScorer(live, PixelDoor(), sources)
    example, reasons = RowInput(*place), list[str]()
    for kind in feature_doors(live.model):
        try:
            door: Door = kind(live.forward, FeatureGate(live.model), example)
        except LayoutError as error:
            reasons.append(str(error))
            continue
        except Exception as error:  # noqa: BLE001 - some models cannot handle a batch of one row
            reasons.append(f"a row alone raised {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        scorer = LiveScorer(live, door, sources)
        reason = _tested(scorer, tuple(SelfTest))
        if not reason:
            return scorer.with_remarks([*_about_door(door, reasons, "self-tests-passed"), *_remarks(sources)])
        reasons.append(reason)
    scorer = LiveScorer(live, PixelDoor(), sources)
    _tested(scorer, _OF_PIXELS)
    return scorer.with_remarks([*_about_door(scorer.door, reasons, "self-tests-of-pixels"), *_remarks(sources)])


def _tested(scorer: LiveScorer, names: Sequence[SelfTest]) -> str:
    """Run self-tests on the first samples; return why another door should be tried, or an empty string.

    Raises:
        UnfitError: a test failed, and the failure is one that another door would only hide.
    """
    batch = first_samples(scorer.batches, _TESTED)
    if batch is None:
        return ""
    live = scorer.live
    who = f"model: {type(live.model).__name__}"
    for failure in failures(scorer, batch, scorer.own, live.dtype, names):
        layers = len(scorer.encode(batch).layers)
        in_part = failure.test is SelfTest.SENTINEL and not failure.crashed and len(failure.depths) < layers
        if in_part or failure.test not in _OTHER_DOOR:
            raise UnfitError(who, failure)
        return f"the self-test `{failure.test.value}` failed: {failure.outcome}"
    return ""


def first_samples(batches: Sequence[Batch], count: int) -> Batch | None:
    """Return up to `count` samples from the same batch that have an image and a label; None if no sample does."""
    for batch in batches:
        places = [p for p, sample in enumerate(batch.samples) if sample.has_image and sample.label_tokens][:count]
        if places:
            return batch.rows(places)
    return None


def _about_door(door: Door, reasons: Sequence[str], tests: RemarkCode) -> list[Remark]:
    why = [Remark(code="other-door-failed", about="door", figures={"reason": reason}) for reason in reasons]
    return [Remark(code=door.code, about="door"), *why, Remark(code=tests, about="self-tests")]


def _remarks(sources: Sequence[Collated]) -> list[Remark]:
    ways = {source.answers.way for source in sources}
    code: RemarkCode = "answers-by-labels" if Way.LABELS in ways else "answers-only"
    return [Remark(code=code, about="labels", figures={"other_labels": sum(s.other_labels for s in sources)})]
