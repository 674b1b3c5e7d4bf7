"""Visual tokens: scale, collapse by stage, idle slots; and pairs that do not belong together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eyechart.faults.diagnosis import RunEvidence, diagnose_run
from eyechart.faults.pairing import Pairing, association, diagnose_pairing
from eyechart.faults.pattern_of_tokens import Untrained, diagnose_visual
from eyechart.faults.probes import probe
from eyechart.faults.slots import SlotUse, measure_slots
from eyechart.faults.table import finding
from eyechart.results import Internals, Verdict
from eyechart.scoring.internals import Inside, internals
from eyechart.seam import Batch, VisualTokens
from fake_scorers import EOS, FIRST_WORD, LATENTS, Healthy, code_of, make_batches, make_sample
from test_diagnosis_ablation import ablation, training

IMAGES, PATCHES, SLOTS, WIDTH = 24, 9, 4, 16
RNG = np.random.default_rng(0)


def measured(
    tower: float = 1.0, resampler: float = 0.5, projector: float = 0.5, scale: float = 1.0, alike: float = 0.0
) -> Internals:
    """Stages whose values differ between images by so much, on top of slots that differ by about 1."""
    stages = {}
    for name, slots, spread in (
        ("tower", PATCHES, tower),
        ("resampler", SLOTS, resampler),
        ("projector", SLOTS, projector),
    ):
        common_SC = RNG.normal(size=(slots, WIDTH)) * (1 - alike) + alike * RNG.normal(size=WIDTH)
        stages[name] = scale * (common_SC + spread * RNG.normal(size=(IMAGES, slots, WIDTH)))
    seen = Inside()
    seen.add(list(range(IMAGES)), stages)
    found = internals(seen, text_rms=1.0)
    assert found is not None
    return found


def codes(
    seen: Internals | None, slots: SlotUse | None = None, verdict: Verdict | None = None
) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in diagnose_visual(seen, slots, verdict)]


def test_sound_stages_show_nothing() -> None:
    assert codes(measured()) == []
    assert codes(measured(resampler=0.04, projector=0.04)) == [], "an untrained connector has little, and not nothing"


@pytest.mark.parametrize(
    ("spreads", "stage"), [({"resampler": 1e-4, "projector": 1e-4}, "resampler"), ({"projector": 1e-4}, "projector")]
)
def test_the_stage_that_loses_the_image_is_named(spreads: dict[str, float], stage: str) -> None:
    (found,) = diagnose_visual(measured(**spreads))
    assert (found.code, found.severity, found.evidence["stage"]) == ("collapsed", "error", stage)


@pytest.mark.parametrize(("fresh", "collapsed"), [(0.5, True), (0.05, True), (0.02, False), (0.005, False)])
def test_a_stage_has_lost_the_images_where_a_fresh_connector_has_not(fresh: float, collapsed: bool) -> None:
    seen, reference = (measured(resampler=spread, projector=spread) for spread in (0.008, fresh))
    found = [f.code for f in diagnose_visual(seen, untrained=Untrained(reference, scaled=True))]
    assert found == (["collapsed"] if collapsed else [])
    assert codes(seen) == [], "without a reference only rounding is a bound"


@pytest.mark.parametrize(
    ("ratio", "fresh", "scaled", "named"),
    [
        (15.0, 8.0, False, False),
        (15.0, 8.0, True, True),
        (90.0, 8.0, False, True),
        (1.0, 200.0, False, False),
        (0.02, 0.1, False, False),
        (0.005, 0.1, False, True),
        (50.0, 50.0, True, True),
    ],
    ids=[
        *("as it starts", "normed, and not 1", "far above its start", "moved to the text"),
        *("starts small", "far below its start", "a factor in the code, also of a fresh one"),
    ],
)
def test_a_free_scale_is_compared_with_a_fresh_connectors(
    ratio: float, fresh: float, scaled: bool, named: bool
) -> None:
    untrained = Untrained(measured().model_copy(update={"rms_ratio": fresh}), scaled)
    seen = measured().model_copy(update={"rms_ratio": ratio})
    found = [f.code for f in diagnose_visual(seen, untrained=untrained)]
    assert found == (["scale-mismatch"] if named else [])


def test_slots_are_dead_below_a_hundredth_of_their_even_part() -> None:
    groups = tuple((slot,) for slot in range(8))
    little = SlotUse(32, groups, 0.87, (0.08, 0.6, *[0.002] * 6), (0.27, 0.8, *[0.004] * 6))
    assert codes(None, little) == [], "captions with accents: two of eight slots carry nearly everything"
    nothing = SlotUse(32, groups, 0.87, (0.08, 0.6, *[0.0] * 6), (0.27, 0.8, *[0.0005] * 6))
    assert codes(None, nothing) == [("slots-dead", "warning")]


def test_a_projector_that_is_nearly_all_bias_has_lost_what_the_resampler_still_had() -> None:
    (found,) = diagnose_visual(measured(resampler=0.5, projector=0.03))
    assert (found.code, found.evidence["stage"]) == ("collapsed", "projector")
    assert codes(measured(resampler=0.5, projector=0.1)) == []


def test_images_that_are_alike_are_not_the_connectors_fault() -> None:
    assert codes(measured(tower=1e-5, resampler=1e-6, projector=1e-6)) == []


def test_one_vector_for_all_tokens_of_all_images_is_collapsed() -> None:
    seen = Inside()
    stages = {"tower": RNG.normal(size=(IMAGES, PATCHES, WIDTH)), "projector": np.ones((IMAGES, SLOTS, WIDTH))}
    seen.add(list(range(IMAGES)), stages)
    assert codes(internals(seen, 1.0))[-1] == ("collapsed", "error")


@pytest.mark.parametrize(
    ("before", "constant", "collapsed"), [(0.0, 3.0, False), (0.0, 30.0, True), (30.0, 30.0, False)]
)
def test_a_constant_that_drowns_the_image_is_a_collapse_where_the_stage_before_it_had_none(
    before: float, constant: float, collapsed: bool
) -> None:
    images_NSC = RNG.normal(size=(IMAGES, SLOTS, WIDTH))
    seen = Inside()
    tower_NSC = RNG.normal(size=(IMAGES, PATCHES, WIDTH))
    seen.add(list(range(IMAGES)), dict(tower=tower_NSC, resampler=images_NSC + before, projector=images_NSC + constant))
    drowned = internals(seen, constant)
    assert drowned is not None
    assert drowned.image_share["projector"] == pytest.approx(1 / (1 + constant**2), rel=0.1)
    assert (("collapsed", "error") in codes(drowned, verdict="FAIL")) == collapsed
    assert ("collapsed", "error") not in codes(drowned, verdict="PASS"), "a model that reads it all the same is sound"


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_a_foreign_scale_is_an_error_unless_the_run_lives_with_it(scale: float) -> None:
    use = SlotUse(32, ((0,), (1,)), 1.0, (0.1, 0.1), (0.4, 0.4), rescaled=0.2)
    assert codes(measured(scale=scale)) == [("scale-mismatch", "error")]
    assert codes(measured(scale=scale), use, "FAIL") == [("scale-mismatch", "error")]
    assert codes(measured(scale=scale), use, "PASS") == [("scale-mismatch", "warning")]
    helped = SlotUse(32, ((0,), (1,)), 1.0, (0.1, 0.1), (0.4, 0.4), rescaled=-0.3)
    assert codes(measured(scale=scale), helped, "PASS") == [("scale-mismatch", "error")]


@pytest.mark.parametrize("scale", [0.2, 8.0])
def test_a_scale_within_bounds_shows_nothing(scale: float) -> None:
    assert codes(measured(scale=scale)) == []


def test_slots_that_repeat_one_token_are_dead_and_similar_ones_are_not() -> None:
    repeated = Inside()
    token_N1C = RNG.normal(size=(IMAGES, 1, WIDTH))
    tower = RNG.normal(size=(IMAGES, PATCHES, WIDTH))
    repeated.add(list(range(IMAGES)), {"tower": tower, "projector": np.repeat(token_N1C, SLOTS, axis=1)})
    assert codes(internals(repeated, 1.0)) == [("slots-dead", "warning")]
    assert codes(measured(alike=0.9)) == []


class SomeSlots(Healthy):
    """Only `used` of the visual tokens identify the picture; the loss falls with each that does."""

    slots, used = 6, (0,)

    def code(self, picture: int) -> torch.Tensor:
        return torch.stack([code_of(picture)[0] if slot in self.used else code_of(99)[0] for slot in range(self.slots)])

    def surprise(self, labels_T: torch.Tensor, seen_QE: torch.Tensor | None) -> torch.Tensor:
        assert seen_QE is not None
        wanted_E = code_of(int(labels_T[0]) - FIRST_WORD)[0]
        right = (seen_QE - wanted_E).abs().amax(dim=1) < 1e-6
        return self.worth(right) * (labels_T != EOS)

    def worth(self, right: torch.Tensor) -> torch.Tensor:
        """Nats that the right slots leave."""
        return 2.0 - right.float().sum() / len(self.used)


class HalfOfTheSlots(SomeSlots):
    used = (0, 1, 2)


class MoreThanHalfOfTheSlots(SomeSlots):
    used = (0, 1, 2, 3)


class AllSlots(SomeSlots):
    used = (0, 1, 2, 3, 4, 5)


class Redundant(AllSlots):
    """Every slot has all of the information: no single one is needed, and each is enough."""

    def worth(self, right: torch.Tensor) -> torch.Tensor:
        return 2.0 - right.any().float()


class FourSlots(SomeSlots):
    slots, used = 4, (0, 1, 2, 3)


def one_batch(samples: int = 8) -> Batch:
    return make_batches([make_sample(row, words=3) for row in range(samples)], samples)[0]


def test_slots_that_carry_nothing_are_counted_and_the_others_named() -> None:
    use = measure_slots(SomeSlots(), one_batch())
    assert use is not None and use.whole == pytest.approx(0.75)
    assert use.without == pytest.approx((0.75, 0, 0, 0, 0, 0)) and use.alone == pytest.approx((0.75, 0, 0, 0, 0, 0))
    (found,) = diagnose_visual(None, use)
    assert (found.code, found.severity, found.evidence["dead"]) == ("slots-dead", "warning", [1, 2, 3, 4, 5])
    assert "is in token 0 (counted from 0)" in found.message


def test_exactly_half_of_the_slots_is_enough_for_the_warning() -> None:
    (found,) = diagnose_visual(None, measure_slots(HalfOfTheSlots(), one_batch()))
    assert (found.code, found.evidence["dead"]) == ("slots-dead", [3, 4, 5])
    assert codes(None, measure_slots(MoreThanHalfOfTheSlots(), one_batch())) == []


@pytest.mark.parametrize("scorer", [AllSlots(), Redundant(), FourSlots()], ids=lambda s: type(s).__name__)
def test_slots_that_share_or_repeat_the_work_are_alive(scorer: SomeSlots) -> None:
    assert codes(None, measure_slots(scorer, one_batch())) == []


def test_slots_are_not_judged_where_the_picture_is_worth_nothing() -> None:
    nothing = SlotUse(32, ((0,), (1,), (2,)), 0.01, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    assert codes(None, nothing) == []


def test_slots_cannot_be_swapped_among_equal_images() -> None:
    same = make_batches([make_sample(row, picture=3) for row in range(4)], 4)[0]
    assert measure_slots(Healthy(), same) is None


def test_many_slots_are_taken_in_groups() -> None:
    class Many(AllSlots):
        slots, used = 40, tuple(range(40))

    use = measure_slots(Many(), one_batch())
    assert use is not None and len(use.groups) == 16
    assert [slot for group in use.groups for slot in group] == list(range(40))


COLOURS = ("red", "green", "blue", "grey", "pink")


def pairs(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Features that carry the colour, among other things, and captions that say it."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(len(COLOURS), size=count)
    pooled_NV = rng.normal(size=(count, 12)) + 2 * np.eye(12)[colours]
    return pooled_NV, [f"a {COLOURS[colour]} thing {'on a table' * int(rng.integers(2))}" for colour in colours]


def rolled(captions: list[str]) -> list[str]:
    return captions[1:] + captions[:1]


@pytest.mark.parametrize("seed", range(5))
def test_captions_that_go_with_their_images_are_told_from_rolled_ones(seed: int) -> None:
    pooled_NV, captions = pairs(200, seed)
    right, wrong = association(pooled_NV, captions), association(pooled_NV, rolled(captions))
    assert right.z is not None and wrong.z is not None and right.z > 10 and abs(wrong.z) < 3


def test_wrong_pairs_are_named_on_the_side_where_they_are() -> None:
    pooled_NV, captions = pairs(200, 1)
    right, wrong = association(pooled_NV, captions), association(pooled_NV, rolled(captions))
    assert diagnose_pairing(Pairing(right, right), ignored=True) == []
    assert diagnose_pairing(Pairing(wrong, right), ignored=False)[0].message.startswith("training captions do not seem")
    assert diagnose_pairing(Pairing(right, wrong), ignored=False)[0].message.startswith("held-out captions do not seem")
    assert diagnose_pairing(Pairing(wrong, wrong), ignored=True)[0].code == "pairs-mismatched"
    assert diagnose_pairing(Pairing(wrong, wrong), ignored=True)[0].severity == "error"
    (unsure,) = diagnose_pairing(Pairing(wrong, wrong), ignored=False)
    assert unsure.severity == "warning" and "does not see" in unsure.message


def test_one_stretch_of_the_file_whose_captions_are_moved_is_named_with_its_rows() -> None:
    pooled_NV, captions = pairs(160, 1)
    moved = [*captions[:120], *rolled(captions[120:])]
    rows = [10 * i for i in range(160)]
    sound, broken = (association(pooled_NV, texts, rows=rows) for texts in (captions, moved))
    assert diagnose_pairing(Pairing(sound), ignored=False) == []
    (found,) = diagnose_pairing(Pairing(broken), ignored=False)
    assert found.code == "pairs-mismatched" and found.severity == "error"
    assert found.evidence["rows"] == [1200, 1590]


def test_equal_captions_or_equal_images_have_no_association() -> None:
    pooled_NV, captions = pairs(80, 2)
    assert association(pooled_NV, ["the same"] * 80).z is None
    assert association(np.ones((80, 4)), captions).z is None


def test_few_samples_are_no_evidence_of_wrong_pairs() -> None:
    pooled_NV, captions = pairs(40, 3)
    right = association(*pairs(200, 4))
    assert diagnose_pairing(Pairing(association(pooled_NV, rolled(captions)), right), ignored=True) == []


class Frozen(Healthy):
    """Encodes every picture to the same tokens."""

    def encode(self, batch: Batch) -> VisualTokens:
        return VisualTokens((torch.ones(len(batch), LATENTS, 4),))


def test_pixels_that_get_lost_behind_a_sound_tower_are_a_collapse_and_those_before_it_are_unused() -> None:
    seen = probe(Frozen(), one_batch())
    behind = measured(projector=1e-4)
    assert [f.code for f in diagnose_run(RunEvidence(probes=seen, internals=behind))] == ["collapsed"]
    before = measured(tower=1e-5, resampler=1e-6, projector=1e-6)
    assert [f.code for f in diagnose_run(RunEvidence(probes=seen, internals=before))] == ["pixels-unused"]


def test_visual_tokens_that_attention_cannot_see_do_have_a_place() -> None:
    unplaced = finding("placeholder-count", "m", "f", unplaced_slots=[0, 1])
    assert [f.code for f in diagnose_run(RunEvidence([unplaced, finding("image-masked", "m", "f")]))] == [
        "image-masked"
    ]
    counted = finding("placeholder-count", "m", "f", tokens=7, positions=8)
    both = diagnose_run(RunEvidence([counted, finding("image-masked", "m", "f")]))
    assert {f.code for f in both} == {"placeholder-count", "image-masked"}


def test_idle_slots_are_an_error_where_training_did_not_have_them() -> None:
    use = measure_slots(SomeSlots(), one_batch())
    seen = ablation(0.9, "PASS", shuffled=(0.5, 0.02), zero=(0.4, 0.02), noise=(0.45, 0.02))
    logged = training(0.5, 0.45, step=300)
    (first, second, *_) = diagnose_run(RunEvidence(slots=use, ablation=seen, training=logged, step=300))
    assert (first.code, first.severity) == ("slots-dead", "error")
    assert second.code == "loss-not-reproduced" and second.explained_by == ["slots-dead"]
    lived_with = diagnose_run(RunEvidence(slots=use, ablation=seen, training=training(1.0, 0.9, step=300), step=300))
    assert [(f.code, f.severity) for f in lived_with] == [("slots-dead", "warning")]
