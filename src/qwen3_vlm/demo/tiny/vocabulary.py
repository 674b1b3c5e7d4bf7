"""The tiny tokenizer: byte-level BPE whose special tokens have the same strings as in Qwen's tokenizer."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
START, PATCH, STOP = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
"""Token strings of the image block, the same as in Qwen's own tokenizer."""
BYTES = 256


def train(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE of at most `size` tokens from `texts`. The padding token is EOS, as in Qwen3-Base.

    All bytes are tokens, so that text of any script can be encoded. Strings that are frequent in `texts` become single
    tokens.

    Raises:
        ValueError: `size` leaves no room for merges in addition to the bytes and the special tokens.
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
