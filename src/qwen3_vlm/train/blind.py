"""The blind prompt: one constant visual prompt that replaces every picture and is trained on the captions alone.

The prompt is trained on the same captions and with the same loss as the connector. The language model stays frozen and
no image is used. The difference between the loss with this prompt and the loss with the true pictures is the
information in the pictures (eyechart.scoring.decomposition describes how the gaps are split).

The prompt [Q,E] is scaled like the connector's output: if the output is normalised to the RMS of the text embeddings,
the prompt is too. The prompt has far fewer parameters than the connector, and its learning rate is far higher. This
rate is chosen with training captions that are set aside; held-out samples are not used. Nothing here depends on the
connector's weights, so one prompt serves every checkpoint of a run.

Dimension suffixes: Q visual tokens per image, E embedding width, S captions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eyechart.data.dataset import Dataset
from eyechart.exits import NonFiniteError
from eyechart.models.weights import fingerprint
from eyechart.outside.regular import require_regular
from eyechart.progress import progress_bar
from eyechart.scoring.batching import collate
from eyechart.scoring.decomposition import Blind
from eyechart.seam import Batch, IntArray, VisualTokens
from eyechart.verdict.statistics import FloatArray, estimate
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.checkpoint import save_checkpoint
from qwen3_vlm.train.schedule import micro_batches, plan_epoch

LEARNING_RATES = (1e-2, 5e-2, 2e-1)
"""Learning rates that are tried, each in a short training run. They suit every language model, because the trained
values are about 1 whatever the scale of the text embeddings."""
BATCH_SIZE = 16
_PROBE_UPDATES = 40
_MOST_ASIDE = 256
_WARM_UPDATES = 10
_BETAS, _CLIP = (0.9, 0.98), 1.0
_FALLING = 0.01
"""If the last quarter of the training lowers the loss by more nats per token than this, the loss is still falling."""


@dataclass(frozen=True)
class BlindPlan:
    """The settings for training a prompt. They do not include the learning rate, because it is searched for."""

    seed: int
    captions: int
    """Number of training captions, including repeats."""
    precision: str
    """Precision of the language model. A prompt is used only with the precision that it was trained with."""
    micro: int
    """Number of captions per forward pass. The gradient does not depend on it."""


def blind_prompt(vlm: VLM, training: Dataset, plan: BlindPlan, pad_id: int, path: Path) -> Blind:
    """Return the blind prompt of a run: a saved prompt with the same inputs if there is one, otherwise a new prompt.

    Args:
        vlm: the model; only its language model is used, and it is not changed.
        training: the training split; its images are not opened.
        plan: the settings for training the prompt.
        pad_id: id of the token that pads sequences on the right.
        path: `blind_<step>.pt`. A prompt saved for another step of the run can also be used.

    Raises:
        ValueError: there are fewer than two training captions with label tokens, or the prompt cannot be saved.
        NonFiniteError: the loss of the prompt is NaN or infinite at every learning rate.
    """
    task = _Task.of(vlm, training, plan, pad_id)
    key = task.key()
    for earlier in sorted(path.parent.glob("blind_*.pt")):
        if (kept := _read(earlier, key)) is not None:
            return kept
    updates = max(1, plan.captions // BATCH_SIZE)
    probe = max(1, min(_PROBE_UPDATES, updates // 8))
    with progress_bar(len(LEARNING_RATES) * probe + updates, "blind prompt", "update") as bar:

        def tick() -> None:
            bar.update(1)

        trials = {rate: float(task.train(rate, probe, tick).after_S.sum()) for rate in LEARNING_RATES}
        rate = min(trials, key=lambda r: trials[r] if math.isfinite(trials[r]) else math.inf)
        trained = task.train(rate, updates, tick)
    if not np.isfinite(trained.after_S).all() or not bool(torch.isfinite(trained.prompt_QE).all()):
        raise NonFiniteError(
            f"blind: the loss of the constant prompt is not finite at learning rate {rate:g}, the best of "
            f"{', '.join(f'{r:g}' for r in LEARNING_RATES)}",
            "leave blind out of --conditions, or look at the language model with `qwen3-vlm diagnose`",
        )
    blind = Blind(trained.prompt_QE, trained.captions, rate, trained.still_falling(task.aside_tokens_S))
    save_checkpoint(
        path,
        {
            "key": key,
            "prompt_QE": blind.prompt_QE,
            "captions": blind.captions,
            "learning_rate": blind.learning_rate,
            "still_falling": blind.still_falling,
            "trials": {f"{r:g}": loss / float(task.aside_tokens_S.sum()) for r, loss in trials.items()},
            "loss_aside": float(trained.after_S.sum() / task.aside_tokens_S.sum()),
        },
    )
    return blind


def _read(path: Path, key: str) -> Blind | None:
    """Read a saved prompt; None if its inputs differ or the file cannot be read, and a new prompt must be trained."""
    try:
        require_regular(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["key"] != key:
            return None
        return Blind(saved["prompt_QE"], saved["captions"], saved["learning_rate"], saved["still_falling"])
    except Exception:  # damaged bytes raise many kinds of exception in torch.load; the prompt can be trained again
        return None


@dataclass(frozen=True)
class _Trained:
    """The result of one training of the prompt."""

    prompt_QE: Tensor
    captions: int
    before_S: FloatArray
    """Summed NLL of each caption that was set aside, in nats, after three quarters of the training."""
    after_S: FloatArray
    """Summed NLL of each caption that was set aside, in nats, at the end of the training."""

    def still_falling(self, tokens_S: IntArray) -> bool:
        """Whether the last quarter lowered the loss by more than `_FALLING`, and by more than chance can explain.

        The learning rate falls to zero during this quarter, which also lowers the loss. The answer is therefore True
        more often than it should be.
        """
        fall = estimate((self.before_S - self.after_S)[:, None], tokens_S, np.arange(len(tokens_S)))
        interval = fall.interval(0.95)
        return fall.gap > _FALLING and (interval is None or interval[0] > 0)


@dataclass(frozen=True)
class _Task:
    """The data that the prompt is trained on."""

    vlm: VLM
    training: Dataset
    pad_id: int
    seed: int
    settings: str
    """Other settings that affect the outcome, as text."""
    micro: int
    """Number of captions per forward pass. The gradient does not depend on it."""
    fit: list[int]
    """Positions in the training split of the captions to train on."""
    aside: list[int]
    """Positions of captions set aside to choose the learning rate and to test whether the loss is still falling."""
    aside_tokens_S: IntArray
    text_rms: float

    @classmethod
    def of(cls, vlm: VLM, training: Dataset, plan: BlindPlan, pad_id: int) -> _Task:
        """Split the training captions: an eighth of them, but at most 256, is set aside."""
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(plan.seed)).tolist()
        # Do not read more rows than the plan needs: a data set may have half a million.
        order = order[: plan.captions + _MOST_ASIDE]
        tokens = {position: training.text(position).label_tokens for position in order}
        usable = [position for position in order if tokens[position]]
        if len(usable) < 2:
            raise ValueError(
                f"blind: expected at least 2 training captions with label tokens, got {len(usable)}; leave blind out "
                "of --conditions"
            )
        count = min(_MOST_ASIDE, max(1, len(usable) // 8))
        aside, fit = usable[:count], usable[count:]
        settings = f"{plan.captions} {plan.precision} {vlm.connector.shape.output_norm}"
        counted = np.array([tokens[position] for position in aside], dtype=np.int64)
        return cls(vlm, training, pad_id, plan.seed, settings, plan.micro, fit, aside, counted, vlm.llm.text_rms())

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the prompt: Q and E."""
        return self.vlm.connector.shape.latents, self.vlm.llm.width

    def key(self) -> str:
        """A hash of everything that affects the outcome: ids of captions and prompts, model, seed, settings."""
        digest = hashlib.sha256(f"{self.settings} {self.seed} {self.shape} {LEARNING_RATES}".encode())
        digest.update(fingerprint(self.vlm.llm.model).encode())
        for positions in (self.fit, self.aside):
            for position in positions:
                sample = self.training.text(position)
                digest.update(sample.ids_T.tobytes() + b"|" + sample.labels_T.tobytes() + b"|")
        return digest.hexdigest()

    def batch(self, positions: Sequence[int]) -> Batch:
        """Return a batch of these captions without images."""
        return collate([self.training.text(position) for position in positions], self.pad_id)

    def batches(self, updates: int) -> Iterator[list[int]]:
        """Yield `updates` batches of positions; every epoch has a new order."""
        epoch = 0
        while True:
            for window in plan_epoch(len(self.fit), epoch, self.seed, BATCH_SIZE, accumulation=1):
                if updates == 0:
                    return
                updates -= 1
                yield [self.fit[i] for i in window[0]]
            epoch += 1

    def prompt(self, raw_QE: Tensor) -> Tensor:
        """Scale values of about 1 to the scale of the connector's output, in the same way as `Connector.project`."""
        if self.vlm.connector.shape.output_norm:
            raw_QE = raw_QE * raw_QE.pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt()
        return raw_QE * self.text_rms

    def train(self, rate: float, updates: int, tick: Callable[[], None]) -> _Trained:
        """Train a prompt from its seed with AdamW without weight decay.

        The learning rate rises during the first ten updates and then falls to zero.
        """
        device = self.vlm.device
        raw_QE = torch.randn(self.shape, generator=torch.Generator().manual_seed(self.seed)).to(device).requires_grad_()
        optimizer = torch.optim.AdamW([raw_QE], lr=rate, betas=_BETAS, weight_decay=0.0)
        captions, before_S = 0, np.empty(0)
        for number, positions in enumerate(self.batches(updates)):
            warm = min(1.0, (number + 1) / _WARM_UPDATES)
            optimizer.param_groups[0]["lr"] = rate * warm * (1 - number / updates)
            if number == 3 * updates // 4:
                before_S = self.losses(self.prompt(raw_QE))
            self._step(raw_QE, optimizer, positions)
            captions += len(positions)
            tick()
        prompt_QE = self.prompt(raw_QE).detach()
        return _Trained(prompt_QE.cpu(), captions, before_S, self.losses(prompt_QE))

    def _step(self, raw_QE: Tensor, optimizer: torch.optim.Optimizer, positions: list[int]) -> None:
        """Do one update on the mean NLL per label token of a batch."""
        lengths = [self.training.text(position).label_tokens for position in positions]
        optimizer.zero_grad(set_to_none=True)
        for group in micro_batches([list(range(len(positions)))], lengths, self.micro):
            batch = self.batch([positions[i] for i in group])
            loss = self._nll(batch, self.prompt(raw_QE)).sum() / sum(lengths)
            torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_([raw_QE], _CLIP)
        optimizer.step()

    def _nll(self, batch: Batch, prompt_QE: Tensor) -> Tensor:
        return self.vlm.nll(batch, VisualTokens((prompt_QE.expand(len(batch), -1, -1),))).nll_N

    @torch.no_grad()
    def losses(self, prompt_QE: Tensor) -> FloatArray:
        """Return the summed NLL of each caption that was set aside, in nats."""
        found = []
        for start in range(0, len(self.aside), BATCH_SIZE):
            batch = self.batch(self.aside[start : start + BATCH_SIZE])
            scored = self.vlm.nll(batch, VisualTokens((prompt_QE.expand(len(batch), -1, -1),)))
            found += [float(nll_T.double().sum()) for nll_T in scored.per_sample()]
        return np.array(found)
