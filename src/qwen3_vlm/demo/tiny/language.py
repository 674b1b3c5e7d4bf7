"""A tiny Qwen3, trained on documents of notes and captions and tested for reading notes before it is used.

Dimension suffixes: B batch, T tokens, E width of the embeddings, Y vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from eyechart.seam import IGNORE_INDEX
from qwen3_vlm.demo.tiny.documents import Document, Encoded, encode_document, encoder, noted
from qwen3_vlm.demo.tiny.fitting import fit
from qwen3_vlm.demo.tiny.saving import save_half
from qwen3_vlm.demo.tiny.vocabulary import PATCH

HIDDEN, LAYERS, HEADS, KEY_HEADS, HEAD_DIM, MLP = 128, 3, 4, 2, 32, 256
BATCH, EXAM_BATCH = 32, 200
POSITIONS = 2048
"""Number of positions in the model's config. Training documents are far shorter (see documents.py)."""
NOISE = 0.3
"""Standard deviation of the noise in packed notes, divided by the RMS of the embeddings."""


def build(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Return an untrained Qwen3 for `tokenizer`, with tied embeddings (about half a million weights)."""
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, head_dim=HEAD_DIM, tie_word_embeddings=True,
        max_position_embeddings=POSITIONS, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def embed(model: Qwen3ForCausalLM, ids_BT: Tensor, batch: Sequence[Encoded], patch: int) -> Tensor:
    """Embed documents, [B,T,E]. Packed notes become sums of word embeddings plus noise, scaled to the table's RMS.

    They resemble visual tokens, which also have the RMS of the table and each contain several facts inexactly.
    """
    table_YE = model.get_input_embeddings().weight
    embedded_BTE: Tensor = model.get_input_embeddings()(ids_BT)
    spots = torch.tensor([(row, place, token) for row, item in enumerate(batch) for place, token in item.packed])
    if len(spots) == 0:
        return embedded_BTE
    sums_BTE = torch.zeros_like(embedded_BTE).index_put(
        (spots[:, 0], spots[:, 1]), table_YE[spots[:, 2]], accumulate=True
    )
    rms = table_YE.detach().pow(2).mean().sqrt()
    noisy_BTE = sums_BTE + NOISE * rms * torch.randn_like(sums_BTE)
    noisy_BTE = noisy_BTE * rms / noisy_BTE.pow(2).mean(-1, keepdim=True).sqrt()
    return torch.where((ids_BT == patch).unsqueeze(-1), noisy_BTE, embedded_BTE)


def pad(batch: Sequence[Encoded], filler: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make (ids, labels, mask) from documents, each [B,T] and padded on the right. Only caption tokens are labels."""
    width = max(len(item.prompt) + len(item.caption) for item in batch)
    ids, labels = torch.full((len(batch), width), filler), torch.full((len(batch), width), IGNORE_INDEX)
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    for row, item in enumerate(batch):
        line = torch.tensor((*item.prompt, *item.caption))
        ids[row, : len(line)], mask[row, : len(line)] = line, 1
        labels[row, len(item.prompt) : len(line)] = line[len(item.prompt) :]
    return ids, labels, mask


def train(
    tokenizer: PreTrainedTokenizerFast, documents: Iterator[Document], steps: int, seed: int = 11
) -> tuple[Qwen3ForCausalLM, float]:
    """Train a language model on an endless stream of documents.

    Keep the peak learning rate at 2e-3. A higher one (3e-3) gives a lower loss without notes, but a model that ignores
    notes.

    Returns:
        The model in evaluation mode and its last training loss in nats per caption token.
    """
    torch.manual_seed(seed)
    rng, encode = random.Random(f"tiny-language-{seed}"), encoder(tokenizer)
    model, patch = build(tokenizer), tokenizer.convert_tokens_to_ids(PATCH)
    model.train()

    def loss_of_step(step: int) -> Tensor:
        batch = [encode_document(next(documents), tokenizer, encode, rng) for _ in range(BATCH)]
        ids_BT, labels_BT, mask_BT = pad(batch, tokenizer.eos_token_id)
        embedded_BTE = embed(model, ids_BT, batch, patch)
        logits_BTY = model(inputs_embeds=embedded_BTE, attention_mask=mask_BT, use_cache=False).logits
        return F.cross_entropy(logits_BTY[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORE_INDEX)

    last = fit(model.parameters(), loss_of_step, steps=steps, rate=2e-3, weight_decay=0.01, label="language model")
    model.eval()
    return model, last


@torch.no_grad()
def complete(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document], seed: int, longest: int
) -> list[str]:
    """Write greedy captions for documents with shuffled notes and a complete prompt.

    Prompts are padded on the left, so that all of them end where their captions begin.
    """
    encode, rng = encoder(tokenizer), random.Random(seed)
    prompts = [
        encode_document(replace(document, notes=(tuple(noted(document.notes, rng)),)), tokenizer, encode, None).prompt
        for document in documents
    ]
    written: list[str] = []
    for start in range(0, len(prompts), EXAM_BATCH):
        batch = prompts[start : start + EXAM_BATCH]
        width = max(map(len, batch))
        ids_BT = torch.tensor([(tokenizer.eos_token_id,) * (width - len(line)) + line for line in batch])
        mask_BT = torch.tensor([(0,) * (width - len(line)) + (1,) * len(line) for line in batch])
        grown_BT = model.generate(ids_BT, attention_mask=mask_BT, max_new_tokens=longest, do_sample=False)
        written += tokenizer.batch_decode(grown_BT[:, width:], skip_special_tokens=True)
    return written


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer to `folder`, in the layout that `from_pretrained` reads."""
    save_half(model, folder)
    tokenizer.save_pretrained(folder)
