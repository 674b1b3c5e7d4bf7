"""Runs forward passes of a live model (a model in memory) and computes the losses of its labels.

After every call, the model's mode, weights, buffers, gradients, dtype and device are the same as before, and so are the
random generators (`unchanged`).

The suffixes of tensor names give their dimensions: see the legend in `eyechart.seam`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyechart.exits import InputError
from eyechart.faults.experiments import RESTLESS, repeated
from eyechart.models.doors import as_tensor, parameters_of
from eyechart.models.unchanged import kept_randomness, unchanged
from eyechart.models.wrappers import unwrapped


class LiveModel:
    """Runs forward passes of a live model, and leaves the model unchanged."""

    def __init__(self, model: nn.Module, evaluating: bool = True, seed: int | None = None) -> None:
        """Unwrap the model.

        Args:
            model: a transformers model, possibly inside wrappers such as DDP or PEFT.
            evaluating: True to run forward passes in eval mode, False to run them in the model's current mode.
            seed: the seed that is set before every forward pass, so that all passes use the same dropout masks; None
                sets no seed.

        Raises:
            InputError: a wrapper is not supported, or the model is an encoder-decoder model.
        """
        self.model, self._evaluating, self._seed = unwrapped(model), evaluating, seed
        self.config: Any = getattr(self.model, "config", None)
        if getattr(self.config, "is_encoder_decoder", False):
            raise InputError(
                f"model: {type(self.model).__name__} is an encoder-decoder model, whose labels are not at the "
                "positions of its ids",
                "score a decoder-only model",
            )
        self.parameters = parameters_of(self.model)
        self._depth = 0

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the model's weights."""
        return self._weight().dtype

    @contextmanager
    def running(self) -> Iterator[None]:
        """Save the model's state once for all forward passes inside the `with` block, and restore it at the end."""
        if self._depth:
            yield
            return
        self._depth = 1
        try:
            with unchanged(self.model, self._evaluating):
                yield
        finally:
            self._depth = 0

    def forward(self, inputs: Mapping[str, Any]) -> Any:
        """Run one forward pass, after moving the input tensors to the model's device and dtype."""
        options = {"use_cache": False} if "use_cache" in self.parameters else {}
        with nullcontext() if self._seed is None else kept_randomness(self._seed):
            return self.model(**{k: self._placed(v) for k, v in inputs.items() if self._takes(k, v)}, **options)

    @torch.no_grad()
    def stochastic(self, inputs: Mapping[str, Any]) -> bool:
        """Return whether two forward passes on equal inputs give different logits, as they do with active dropout."""
        given = {key: value for key, value in inputs.items() if key in self.parameters and key != "labels"}
        with self.running():
            first, second = (as_tensor(self.forward(given)).float().cpu() for _ in range(2))
        return repeated([first], [second]) > RESTLESS

    def losses(self, inputs: Mapping[str, Any], targets_BT: Tensor) -> list[Tensor]:
        """Return the losses of each row's labels in nats, one tensor [T_i] per row.

        Labels are not shifted: the label of a token is at the token's own position.

        Raises:
            InputError: the logits and the token ids have different numbers of positions.
        """
        keep_BT = targets_BT[:, 1:] != -100
        columns = keep_BT.any(dim=0).nonzero()[:, 0]
        short = "logits_to_keep" in self.parameters and len(columns) > 0
        logits_BTK = as_tensor(self.forward({**inputs, "logits_to_keep": columns} if short else inputs))
        if not short and logits_BTK.shape[1] != targets_BT.shape[1]:
            raise InputError(
                f"model: its logits have {logits_BTK.shape[1]} positions for {targets_BT.shape[1]} ids; it adds image "
                "positions itself, so labels cannot be assigned",
                "use a processor that writes one id per image position, or implement a scorer of your own",
            )
        logits_BTK = logits_BTK if short else logits_BTK[:, columns.to(logits_BTK.device)]
        wanted_BT = targets_BT[:, columns + 1].to(logits_BTK.device)
        kept_BT = wanted_BT != -100
        nll_N = F.cross_entropy(logits_BTK[kept_BT].float(), wanted_BT[kept_BT], reduction="none")
        return list(torch.split(nll_N.cpu(), kept_BT.sum(dim=1).tolist()))

    def _takes(self, key: str, value: Any) -> bool:
        """Return whether an entry of a batch is a model input; collators may also add other entries, such as texts."""
        tensors = value if isinstance(value, list | tuple) else [value]
        return key in self.parameters or all(isinstance(item, Tensor) for item in tensors)

    def _placed(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            weight = self._weight()
            half = value.is_floating_point() and weight.dtype in (torch.float16, torch.bfloat16)
            return value.to(weight.device, weight.dtype if half else value.dtype)
        return type(value)(map(self._placed, value)) if type(value) in (list, tuple) else value

    def _weight(self) -> Tensor:
        embeddings = self.model.get_input_embeddings() if hasattr(self.model, "get_input_embeddings") else None  # type: ignore[operator]  # nn.Module
        found = getattr(embeddings, "weight", None)
        return found if isinstance(found, Tensor) and found.is_floating_point() else next(self.model.parameters())
