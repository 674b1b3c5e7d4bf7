"""Do the frozen parts stay unchanged? Checked after the experiments of the preflight and after every epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

from eyechart.faults.table import finding
from eyechart.models.weights import fingerprint
from eyechart.results import Finding
from qwen3_vlm.models.vlm import VLM


@dataclass
class Frozen:
    """The weights of tower and language model at the last check."""

    vlm: VLM
    known: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Record all values."""
        self.known = self._hashes()

    def findings(self, when: str) -> list[Finding]:
        """One for each part that has changed since the last check; `when` describes what happened in between."""
        now = self._hashes()
        moved = [name for name, value in now.items() if value != self.known[name]]
        self.known = now
        return [
            finding(
                "frozen-moved",
                f"the {name} has changed {when}, although it is frozen, so the loss no longer measures the connector "
                "alone",
                f"give the optimizer the connector's parameters only, set requires_grad_(False) on the {name}, and "
                "look for code that changes its weights in place",
                part=name,
            )
            for name in moved
        ]

    def _hashes(self) -> dict[str, str]:
        return {"vision tower": fingerprint(self.vlm.tower.model), "language model": fingerprint(self.vlm.llm.model)}
