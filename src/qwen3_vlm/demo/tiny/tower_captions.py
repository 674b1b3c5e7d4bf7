"""Trains the tiny vision tower on captions alone: the tower learns to predict which words a picture's caption contains.

With attribute labels (`tower_worlds`), the tower learns more; from captions, shape in particular is hard to learn.
However, training on captions works with any data set in LLaVA format.

Dimension suffixes: B batch, P patches, V width of the tower, K words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionModel

from qwen3_vlm.demo.tiny import tower as towers
from qwen3_vlm.demo.tiny.documents import plain_words
from qwen3_vlm.demo.tiny.fitting import fit

BATCH = 48
SHIFT = 4
"""Largest random shift of the training images, in pixels. Random shifts make it harder to memorise the images."""


class WordHead(nn.Module):
    """Predicts caption words from patch features. The head is discarded after training.

    A word's logit is the sum of two terms: a linear function of the mean patch feature, and the log-mean-exp over
    patches (a soft maximum) of another linear function.
    """

    def __init__(self, words: int) -> None:
        """Make a head that predicts `words` different words."""
        super().__init__()
        self.whole, self.somewhere = nn.Linear(towers.WIDTH, words), nn.Linear(towers.WIDTH, words)

    def forward(self, features_BPV: Tensor) -> Tensor:
        """Return the logits [B,K] of all words."""
        loudest_BK = torch.logsumexp(self.somewhere(features_BPV), 1) - math.log(features_BPV.shape[1])
        logits_BK: Tensor = self.whole(features_BPV.mean(1)) + loudest_BK
        return logits_BK


def targets(captions: Sequence[str], words: Sequence[str]) -> Tensor:
    """Return the targets, float [B,K]: 1 for each word that a caption contains, and 0 for the other words."""
    place = {word: index for index, word in enumerate(words)}
    table = torch.zeros(len(captions), len(words))
    for row, caption in enumerate(captions):
        for word in plain_words(caption):
            if word in place:
                table[row, place[word]] = 1.0
    return table


def shifted(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shift all uint8 images of a batch [B,3,H,W] by the same random number of pixels; edge pixels are repeated."""
    right, down = torch.randint(0, 2 * SHIFT + 1, (2,), generator=generator).tolist()
    padded = F.pad(pixels.float(), (SHIFT, SHIFT, SHIFT, SHIFT), mode="replicate")
    side = pixels.shape[-1]
    return padded[:, :, down : down + side, right : right + side].to(torch.uint8)


def train(
    pixels: Tensor, captions: Sequence[str], words: Sequence[str], steps: int, seed: int = 7
) -> tuple[SiglipVisionModel, dict[str, float]]:
    """Train a tower to predict the words of a picture's caption.

    Args:
        pixels: training images, uint8 [N,3,side,side].
        captions: the captions of the images, in the same order.
        words: the words to predict. If there are none, the tower is not trained: its first layer is the PCA whitening,
            and its other layers are random.
        steps: number of optimiser steps, with a batch of 48 images each.
        seed: seed for the initial weights, the batches and the shifts.

    Returns:
        The tower, and two metrics on held-out rows (a tenth of all rows, at most 500): `word_precision`, the mean
        average precision over the words that some but not all held-out captions contain, and `chance`, the same metric
        for random guesses. With fewer than 50 rows, there are no held-out rows and no metrics.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    tower = towers.build(pixels[:800])
    if not words:
        return tower.eval(), {}
    table_NK, head = targets(captions, words), WordHead(len(words))
    order = torch.randperm(len(pixels), generator=generator)
    held = len(order) // 10 if len(order) >= 50 else 0
    checked, trained = order[:held][:500], order[held:]

    def loss_of_step(step: int) -> Tensor:
        rows = trained[torch.randint(len(trained), (BATCH,), generator=generator)]
        logits_BK = head(towers.features(tower, shifted(pixels[rows], generator)))
        return F.binary_cross_entropy_with_logits(logits_BK, table_NK[rows], reduction="sum") / BATCH

    tower.train()
    parameters = [*tower.parameters(), *head.parameters()]
    fit(parameters, loss_of_step, steps=steps, rate=2e-3, weight_decay=0.05, label="vision tower")
    tower.eval()
    if not held:
        return tower, {}
    with torch.no_grad():
        logits = torch.cat([head(towers.features(tower, pixels[rows])) for rows in torch.split(checked, 100)])
    return tower, average_precision(logits, table_NK[checked])


def average_precision(logits_BK: Tensor, table_BK: Tensor) -> dict[str, float]:
    """Return the mean average precision over the words that occur in some of the captions but not in all of them.

    Returns:
        `word_precision`, the mean average precision, and `chance`, the value that random guesses reach: the mean share
        of captions that contain one of these words. The dictionary is empty if there are no such words.
    """
    decided = (table_BK.sum(0) > 0) & (table_BK.sum(0) < len(table_BK))
    if not decided.any():
        return {}
    ranked = table_BK[:, decided].gather(0, logits_BK[:, decided].argsort(0, descending=True))
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1).unsqueeze(1)
    per_word = (precision * ranked).sum(0) / ranked.sum(0)
    return {"word_precision": per_word.mean().item(), "chance": table_BK[:, decided].mean().item()}
