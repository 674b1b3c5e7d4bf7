"""Makes visual tokens that are the same for every sample from the training split: mean tokens and the blind prompt.

Both are saved with the run and reused if their inputs have not changed. In a job of several processes, the first
process makes them and the others read its files.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from eyechart.data.dataset import judge_rejects
from eyechart.outside.regular import require_regular
from eyechart.progress import progress_bar
from eyechart.scoring.batching import LazyBatches
from eyechart.scoring.decomposition import Blind
from eyechart.scoring.mean_tokens import mean_tokens as average
from qwen3_vlm.build import Prepared
from qwen3_vlm.commands.loaded import Loaded
from qwen3_vlm.train.blind import BlindPlan, blind_prompt
from qwen3_vlm.train.checkpoint import connector_state, save_checkpoint
from qwen3_vlm.train.run import sizes_of

_MEAN_BATCH = 64


def trained_blind(loaded: Loaded, prepared: Prepared, checkpoint: Path) -> Blind:
    """Return the blind prompt of a run, which is saved as `blind_<step>.pt`.

    Raises:
        ValueError: there are fewer than two training captions with label tokens.
        NonFiniteError: the loss of the prompt is NaN or infinite.
    """
    config, path = loaded.config, checkpoint.parent / f"blind_{loaded.step}.pt"
    plan = BlindPlan(config.seed, config.ablation.blind_captions, config.model.precision, sizes_of(config).micro)
    with PartialState(cpu=config.model.device == "cpu").main_process_first():
        return blind_prompt(loaded.vlm, prepared.train, plan, loaded.inputs.pad_id, path)


def mean_tokens(loaded: Loaded, prepared: Prepared, checkpoint: Path) -> Tensor:
    """Return the mean visual tokens [Q,E] over the first training images, saved as `mean_tokens_<step>.pt`.

    A saved mean is reused only for the same connector weights and number of images.

    Raises:
        ValueError: no training image can be read.
    """
    path = checkpoint.parent / f"mean_tokens_{loaded.step}.pt"
    with PartialState(cpu=loaded.config.model.device == "cpu").main_process_first():
        return _mean_tokens(loaded, prepared, path)


def _mean_tokens(loaded: Loaded, prepared: Prepared, path: Path) -> Tensor:
    wanted = min(loaded.config.ablation.mean_token_images, len(prepared.train))
    key = f"{_connector_hash(loaded)} over {wanted}"
    if (kept := _saved_mean(path, key)) is not None:
        return kept
    groups = [range(start, min(start + _MEAN_BATCH, wanted)) for start in range(0, wanted, _MEAN_BATCH)]
    with progress_bar(wanted, "mean visual tokens", "image") as bar:
        mean_QE, unread = average(loaded.vlm, LazyBatches(prepared.train, groups, loaded.inputs.pad_id), bar)
    judge_rejects(unread, wanted, loaded.config.data.max_rejected, "training")
    if mean_QE is None:
        raise ValueError("mean-token: no training image can be read; leave it out with --conditions runbook")
    save_checkpoint(path, {"key": key, "mean_QE": mean_QE})
    return mean_QE


def _saved_mean(path: Path, key: str) -> Tensor | None:
    """Read a saved mean; None if its inputs differ or the file cannot be read, and the mean must be computed again."""
    try:
        require_regular(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        kept: Tensor | None = saved["mean_QE"] if saved["key"] == key else None
        return kept
    except Exception:  # damaged bytes raise many kinds of exception in torch.load; the mean can be computed again
        return None


def _connector_hash(loaded: Loaded) -> str:
    digest = hashlib.sha256()
    for part, state in connector_state(loaded.vlm.connector).items():
        for name, value in state.items():
            digest.update(f"{part}.{name}".encode())
            digest.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
