"""Derives a ranked list of faults from all evidence about a run, for the command `diagnose`.

The caller collects the evidence, and any part of it may be missing. The parts are listed below, each with what it shows
and with the modules that evaluate it. Check 1 scores captions with the right image, with other images and with none.

    connector   whether the connector's tensors are trained, complete and in use      weights, learning_rate
    probes      which images, visual tokens and labels reach the model                probes
    internals   scale and variance of the visual tokens by stage                      pattern_of_tokens
    slots       how much each visual token lowers the loss                            pattern_of_tokens
    pairing     whether captions match their images (no language model is used)       pairing
    ablation    the loss differences (gaps) of check 1                                pattern
    untrained   the internals of a newly initialised connector, as a reference        pattern_of_tokens
    rivals      losses with untrained or averaged tokens, as a reference              rivals, pattern

The parts before `pairing` test how the model processes its inputs, and do not require low losses. The results of check
1 show only effects, so a fault that one of those parts reveals can explain them (`faults.table.EXPLAINS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eyechart.faults.learning_rate import diagnose_movement, movement, typical_size
from eyechart.faults.pairing import Pairing, diagnose_pairing
from eyechart.faults.pattern import diagnose_ablation
from eyechart.faults.pattern_of_tokens import Untrained, diagnose_visual
from eyechart.faults.pattern_of_training import RunContext
from eyechart.faults.probes import Probes, diagnose_probes
from eyechart.faults.rivals import Rivals
from eyechart.faults.slots import SlotUse
from eyechart.faults.table import explains, rank
from eyechart.faults.weights import ConnectorEvidence, diagnose_connector
from eyechart.results import Ablation, Finding, Internals, Training

_DAMAGE = ("slots-dead", "scale-mismatch")
"""Faults of the visual tokens that even a working connector may have from the start of training. If check 1 passes,
they are only warnings."""

_RAISED = (
    "held-out-differs",
    "tower-uninitialised",
    "wrong-preprocessing",
    "dropout-active",
    "learning-rate-too-high",
    "learning-rate-too-low",
)
"""Faults that can be harmless. If such a fault explains an error that is also found, it is the likely cause. It then
becomes an error too, and is ranked before the error that it explains."""
_NOT_THE_TRAINED = ("no-gradient", "loss-not-reproduced")
"""If one of these faults is found, the weights in the checkpoint do not show the effect of the learning rate."""
_MAYBE_THE_TRAINED = ("connector-not-loaded", "non-finite")
"""If one of these faults is found, the weights show the effect of the learning rate only if they have moved by at least
`_ANOTHER_START`."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_ANOTHER_START = 3.0
"""If weights have moved by at least this relative distance, they are not merely another initialisation. The distance
between two unrelated initialisations of equal size is 1.4."""


@dataclass(frozen=True)
class RunEvidence:
    """The evidence about a run; any part may be missing."""

    findings: Sequence[Finding] = ()
    """Findings from elsewhere, such as the preflight (the checks before training). They are ranked together with the
    findings from this evidence."""
    connector: ConnectorEvidence | None = None
    probes: Probes | None = None
    internals: Internals | None = None
    """Measurements at the connector's stages; if None, those of `ablation` are used."""
    slots: SlotUse | None = None
    pairing: Pairing | None = None
    ablation: Ablation | None = None
    untrained: Untrained | None = None
    """Measurements of a newly initialised connector of the same shape on the same images."""
    rivals: Rivals | None = None
    """Losses with the visual tokens of untrained connectors or of an average image, if `asks_for_rivals` returned
    True."""
    training: Training | None = None
    step: int | None = None
    """Training step of the checkpoint."""
    vocabulary: int | None = None
    """Number of tokens in the language model's vocabulary."""
    exact: bool = False
    """Whether the model was trained and scored in float32."""


def diagnose_run(evidence: RunEvidence) -> list[Finding]:
    """Return a finding for each fault that the evidence shows, the most likely cause first (`faults.table.rank`)."""
    found = list(evidence.findings)
    ablation, probes = evidence.ablation, evidence.probes
    if evidence.connector is not None:
        found += diagnose_connector(evidence.connector)
    if probes is not None:
        found += diagnose_probes(probes)
    internals = evidence.internals or (ablation.connector if ablation else None)
    found += diagnose_visual(internals, evidence.slots, ablation.verdict if ablation else None, evidence.untrained)
    if ablation is not None:
        horizon = probes.text.horizon if probes else None
        known = RunContext(
            evidence.training, evidence.step, evidence.vocabulary, evidence.exact, evidence.rivals, horizon
        )
        pattern = diagnose_ablation(ablation, known)
        if _has(found, "image-masked") and not _has(found, "not-injected"):
            # If no condition changes a loss, two causes are possible. The probes have found that the cause is a mask.
            pattern = [f for f in pattern if f.code != "not-injected"]
        if _has(found, "held-out-differs"):
            # Captions unlike the training captions are predicted badly with any image, even if the pairs are correct.
            pattern = [f for f in pattern if f.code != "pairs-mismatched"]
        found += pattern
    if evidence.pairing is not None:
        found += diagnose_pairing(evidence.pairing, ignored=_has(found, "constant-prompt"))
    found += _of_learning_rate(evidence, found)
    if _has(found, "collapsed"):
        # The tower's output still differs between images, so the pixels reached the tower, and a later stage lost them.
        found = [f for f in found if f.code != "pixels-unused"]
    if _has(found, "image-masked"):
        # Visual tokens that change no loss do have a position in the prompt, but the attention mask hides it.
        found = [f for f in found if not (f.code == "placeholder-count" and "unplaced_slots" in f.evidence)]
    if any(f.code == "captions-unread" and f.severity == "error" for f in found):
        # The captions are predicted badly before and after training. This confirms the fault that the ids suggested.
        found = [f.model_copy(update={"severity": "error"}) if f.code == "token-id-mismatch" else f for f in found]
    if _has(found, "loss-not-reproduced") or _has(found, "visual-tokens-changed"):
        # If the visual tokens had been like this in training, scoring would reproduce the training loss. They have
        # therefore changed since.
        found = [f.model_copy(update={"severity": "error"}) if f.code in _DAMAGE else f for f in found]
    return rank([_raised(f, found) for f in found])


def _of_learning_rate(evidence: RunEvidence, found: Sequence[Finding]) -> list[Finding]:
    connector, ablation = evidence.connector, evidence.ablation
    if connector is None or any(_has(found, code) for code in _NOT_THE_TRAINED):
        return []
    seen = movement(connector.initial, connector.stored, connector.updates)
    unsure = any(_has(found, code) for code in _MAYBE_THE_TRAINED)
    if seen is None or (unsure and not seen.moved >= _ANOTHER_START):
        return []
    return diagnose_movement(
        seen,
        connector.learning_rate,
        typical_size(connector.initial),
        ablation.verdict if ablation else None,
    )


def _raised(found: Finding, among: Sequence[Finding]) -> Finding:
    """Return the finding, as an error if its code is in `_RAISED` and it explains an error in `among`."""
    raised = found.code in _RAISED and any(f.severity == "error" and explains(found.code, f.code) for f in among)
    return found.model_copy(update={"severity": "error"}) if raised else found


def _has(findings: Sequence[Finding], code: str) -> bool:
    return any(f.code == code for f in findings)
