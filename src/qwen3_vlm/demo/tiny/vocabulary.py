"""Trains the tiny tokenizer: a byte-level BPE with the same special-token strings as Qwen's tokenizer."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
START, PATCH, STOP = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
"""The strings of the image block's tokens: start, image position and end, as in Qwen's own tokenizer."""
BYTES = 256


def train(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of at most `size` tokens on `texts`. EOS is also the padding token.

    Qwen3-Base uses EOS for padding as well. Every byte is a token, so that text in any script can be encoded. Strings
    that are frequent in `texts` become single tokens.

    Raises:
        ValueError: `size` is smaller than the number of byte tokens and special tokens together.
    """
    special = [END, START, PATCH, STOP]
    if size < BYTES + len(special):
        raise ValueError(f"expected a vocabulary of at least {BYTES + len(special)} tokens, got {size}")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[START, PATCH, STOP],
        clean_up_tokenization_spaces=False,
    )
