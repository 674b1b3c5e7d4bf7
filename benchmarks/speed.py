"""Measures how much each speed optimisation saves, as a ratio of the times without and with it.

    python benchmarks/speed.py

For every row, the slow and the fast method are timed alternately (ABAB...) on the same data in the same process. The
row shows the median of the paired ratios and their range, because a busy machine slows down both methods. No other work
should run at the same time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from eyechart.scoring.batching import batches_by_length, collate
from eyechart.seam import IGNORE_INDEX, Batch, Sample, VisualTokens
from qwen3_vlm.build import build_model, prepare_data
from qwen3_vlm.config import load_config
from qwen3_vlm.models.llm import LanguageModel
from qwen3_vlm.models.vlm import VLM

ROUNDS = 7
CONDITIONS = 7
"""correct, four derangements, zero, noise: number of scorings per sample in the runbook's check."""


def ratio(name: str, slow: Callable[[], object], fast: Callable[[], object], note: str) -> None:
    """Time both alternately and print slow/fast."""
    slow(), fast()
    ratios = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        slow()
        middle = time.perf_counter()
        fast()
        ratios.append((middle - started) / (time.perf_counter() - middle))
    print(f"{name:<44} {statistics.median(ratios):5.2f}x  ({min(ratios):.2f} to {max(ratios):.2f})  {note}", flush=True)


def train_pass(vlm: VLM, batches: list[Batch]) -> None:
    """Run the forward and backward passes of all batches, as one accumulation window."""
    tokens = sum(batch.stats.label_tokens for batch in batches)
    for batch in batches:
        loss = vlm.nll(batch, VisualTokens((vlm.visual(vlm.features(batch)),))).nll_N.sum()
        torch.autograd.backward(loss / tokens)
    vlm.connector.zero_grad(set_to_none=True)


def full_logits(llm: LanguageModel, embeds_BTE: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Compute logits at every position, as is usual, although the loss ignores most of them."""
    logits_BTK = llm.model(inputs_embeds=embeds_BTE, use_cache=False).logits[:, :-1].float()
    flat = F.cross_entropy(logits_BTK.flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORE_INDEX)
    torch.autograd.backward(flat)
    return flat


def label_logits(llm: LanguageModel, embeds_BTE: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Ours."""
    loss = llm.nll(embeds_BTE, labels_BT).nll_N.mean()
    torch.autograd.backward(loss)
    return loss


def large_vocabulary() -> LanguageModel:
    """Return a random Qwen3 with 32,000 tokens, so that the LM head takes a realistic share of the time."""
    config = Qwen3Config(
        vocab_size=32_000, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, tie_word_embeddings=True,
    )  # fmt: skip
    return LanguageModel(Qwen3ForCausalLM(config))


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    config = load_config(Path("configs/stage1_align_tiny.yaml"))
    prepared = prepare_data(config)
    vlm = build_model(config, prepared.inputs)
    samples = [item for p in range(64) if isinstance(item := prepared.train[p], Sample)]
    pad = prepared.inputs.pad_id
    print(f"{'slow way against fast way':<44} {'median':>6}  (range over {ROUNDS} pairs)")

    batches = [collate(samples[i : i + 16], pad) for i in range(0, 64, 16)]
    singles = [collate(samples[i : i + 4], pad) for i in range(0, 64, 4)]
    with torch.no_grad():
        cached = [replace(b, features_BPV=vlm.features(b), pixels_BCHW=None) for b in batches]
        visual = [vlm.encode(b) for b in batches]

    @torch.no_grad()
    def score(encode_each_time: bool) -> None:
        for batch, tokens in zip(batches, visual, strict=True):
            tokens = vlm.encode(batch)
            for _ in range(CONDITIONS):
                vlm.nll(batch, vlm.encode(batch) if encode_each_time else tokens)

    ratio("tower per condition / once per sample", lambda: score(True), lambda: score(False), "check 1, 7 scorings")
    ratio("tower every epoch / features cached", lambda: train_pass(vlm, batches), lambda: train_pass(vlm, cached),
          "a training step; 3 epochs")  # fmt: skip
    ratio("micro-batches of 4 / of 16", lambda: train_pass(vlm, singles), lambda: train_pass(vlm, batches),
          "same gradient")  # fmt: skip

    llm = large_vocabulary()
    batch = batches[0]
    ids_BT = batch.ids_BT % 32_000

    def embeds() -> torch.Tensor:
        return llm.embed(ids_BT).detach().requires_grad_()

    ratio("logits everywhere / at label positions", lambda: full_logits(llm, embeds(), batch.labels_BT),
          lambda: label_logits(llm, embeds(), batch.labels_BT), "32,000 tokens of vocabulary")  # fmt: skip

    legacy = load_config(Path("configs/stage1_align_tiny.yaml"), ["--prompt.image_block", "legacy"])
    joined_set = prepare_data(legacy).train
    spliced = batches[0].ids_BT.shape[1]
    joined = [collate([joined_set[p] for p in range(i, i + 16)], pad) for i in range(0, 64, 16)]
    ratio("block joined with spaces / spliced as ids", lambda: train_pass(vlm, joined),
          lambda: train_pass(vlm, batches), f"{joined[0].ids_BT.shape[1]} against {spliced} tokens")  # fmt: skip

    # Captions of one world have similar lengths; every fourth is shortened here, because lengths of real captions vary.
    varied = [shorten(s, 4 + (i * 7) % 40) if i % 4 == 0 else s for i, s in enumerate(samples)]
    lengths = [len(s.ids_T) for s in varied]
    random_order = [collate(varied[i : i + 16], pad) for i in range(0, 64, 16)]
    by_length = [collate([varied[p] for p in group], pad) for group in batches_by_length(lengths, 16)]
    ratio("batches as they come / by length", lambda: train_pass(vlm, random_order),
          lambda: train_pass(vlm, by_length), "a quarter of the captions cut short")  # fmt: skip


def shorten(sample: Sample, labels: int) -> Sample:
    """Return the sample with at most this many label tokens."""
    keep = int((sample.labels_T == IGNORE_INDEX).sum()) + labels
    return replace(sample, ids_T=sample.ids_T[:keep], labels_T=sample.labels_T[:keep])


if __name__ == "__main__":
    main()
