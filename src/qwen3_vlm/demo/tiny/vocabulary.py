"""The tiny tokenizer: byte-level BPE with the names that Qwen's tokenizer uses for what we need."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
START, PATCH, STOP = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
"""The image block, by the token strings of Qwen's own tokenizer."""
BYTES = 256


def train(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE of at most `size` tokens from `texts`; pad = EOS, as Qwen3-Base has it.

    Bytes come first, so any text of any script can be written; what the texts repeat becomes single tokens.

    Raises:
        ValueError: `size` leaves no room for merges beside the bytes and the special tokens.
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
