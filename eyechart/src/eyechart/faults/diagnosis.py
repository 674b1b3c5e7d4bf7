"""Diagnosis: one function, called by the command `diagnose`, derives a ranked list of faults from all evidence.

The caller gathers the evidence, which may be incomplete. Each part, what it can show, and the module that evaluates it:

    connector   whether the connector's tensors are trained, complete and in use      weights, learning_rate
    probes      which images, visual tokens and labels reach the model                probes
    internals   scale and variance of the visual tokens by stage                      pattern_of_tokens
    slots       how much each visual token lowers the loss                            pattern_of_tokens
    pairing     whether captions match their images (no language model is used)       pairing
    ablation    the pattern of gaps of check 1                                        pattern
    untrained   figures of a fresh connector of the same shape, as a reference        pattern_of_tokens
    rivals      losses with visual tokens that learnt nothing, as a reference         rivals, pattern

The parts before `pairing` test mechanisms and do not require low losses. The pattern of check 1 shows consequences, so
a fault of a mechanism can explain it (`faults.table.EXPLAINS`).
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
"""Faults of the visual tokens that a working run may have from its start; if check 1 passes, they are only warnings."""

_RAISED = (
    "held-out-differs",
    "tower-uninitialised",
    "wrong-preprocessing",
    "dropout-active",
    "learning-rate-too-high",
    "learning-rate-too-low",
)
"""Causes that can be harmless. If an error that they explain is found as well, they are its likely cause: they become
errors too and are ranked before it."""
_NOT_THE_TRAINED = ("no-gradient", "loss-not-reproduced")
"""Faults after which the weights of the checkpoint do not show what the learning rate did."""
_MAYBE_THE_TRAINED = ("connector-not-loaded", "non-finite")
"""The same, unless the weights have moved further than to another initialisation."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_ANOTHER_START = 3.0
"""Two initialisations differ by more than this relative distance; it is 1.4 for unrelated weights of equal size."""


@dataclass(frozen=True)
class RunEvidence:
    """The evidence about a run; any part may be missing."""

    findings: Sequence[Finding] = ()
    """Findings made elsewhere, such as in the preflight or while loading; they are ranked with the others."""
    connector: ConnectorEvidence | None = None
    probes: Probes | None = None
    internals: Internals | None = None
    """Figures of the connector's stages; by default those of `ablation`."""
    slots: SlotUse | None = None
    pairing: Pairing | None = None
    ablation: Ablation | None = None
    untrained: Untrained | None = None
    """Figures of a fresh connector of the same shape on the same images."""
    rivals: Rivals | None = None
    """Losses with visual tokens that learnt nothing, where `pattern.asks_for_rivals`."""
    training: Training | None = None
    step: int | None = None
    """Training step of the checkpoint."""
    vocabulary: int | None = None
    """Number of tokens in the language model's vocabulary."""
    exact: bool = False
    """Whether the model was trained and scored in float32."""


def diagnose_run(evidence: RunEvidence) -> list[Finding]:
    """Return every fault that the evidence shows, the most likely cause first (`faults.table.rank`)."""
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
            # Losses that never change have two possible causes; the findings of the probes decide between them.
            pattern = [f for f in pattern if f.code != "not-injected"]
        if _has(found, "held-out-differs"):
            # Captions of another kind are predicted badly with any image, which does not show that they are mismatched.
            pattern = [f for f in pattern if f.code != "pairs-mismatched"]
        found += pattern
    if evidence.pairing is not None:
        found += diagnose_pairing(evidence.pairing, ignored=_has(found, "constant-prompt"))
    found += _of_learning_rate(evidence, found)
    if _has(found, "collapsed"):
        # The tower's output still differs between images, so the pixels reached the tower and were lost after it.
        found = [f for f in found if f.code != "pixels-unused"]
    if _has(found, "image-masked"):
        # Every visual token has a position: those that change no loss are at positions hidden from attention.
        found = [f for f in found if not (f.code == "placeholder-count" and "unplaced_slots" in f.evidence)]
    if any(f.code == "captions-unread" and f.severity == "error" for f in found):
        # The captions are predicted badly before and after training, which confirms the fault that the ids suggested.
        found = [f.model_copy(update={"severity": "error"}) if f.code == "token-id-mismatch" else f for f in found]
    if _has(found, "loss-not-reproduced") or _has(found, "visual-tokens-changed"):
        # A connector trained in this state would reproduce its training loss, so the state arose after training.
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
    """Return a finding of `_RAISED` as an error if an error among the others is its consequence."""
    raised = found.code in _RAISED and any(f.severity == "error" and explains(found.code, f.code) for f in among)
    return found.model_copy(update={"severity": "error"}) if raised else found


def _has(findings: Sequence[Finding], code: str) -> bool:
    return any(f.code == code for f in findings)
