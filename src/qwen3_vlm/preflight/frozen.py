"""Checks that the weights of the frozen vision tower and language model have not changed.

This is checked after the experiments of the preflight (the tests before training), and after every epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from eyechart.faults.table import finding
from eyechart.models.weights import fingerprint
from eyechart.results import Finding
from qwen3_vlm.models.vlm import VLM


@dataclass
class Frozen:
    """Compares the weights of the vision tower and the language model with those at the previous check."""

    vlm: VLM
    known: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Record hashes of the current weights for the first comparison."""
        self.known = self._hashes()

    def findings(self, when: str) -> list[Finding]:
        """Return a finding for each part whose weights have changed since the previous check.

        `when` is the part of the message that states when the change happened.
        """
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
