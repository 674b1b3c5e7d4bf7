"""Runs the frozen language model on input embeddings: computes the NLL of label tokens, or generates token ids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, DynamicCache, PreTrainedTokenizerFast, Qwen3ForCausalLM

from eyechart.hub import explain_absence, hub_bounded, unreadable
from eyechart.models.hashing import HashedFiles, model_hashes
from eyechart.models.weights import load_hashed
from eyechart.seam import IGNORE_INDEX, TokenNLL
from qwen3_vlm.shipped import locate


class LanguageModel(nn.Module):
    """A Qwen3 with frozen weights. Gradients are propagated through the model to its input embeddings."""

    def __init__(self, model: Qwen3ForCausalLM, files: HashedFiles | None = None) -> None:
        """Wrap a loaded model. `files` provides the hashes of the weights if the model was loaded from files."""
        super().__init__()
        self._files = files
        self._hashes: dict[str, str] | None = None
        self.model = model.requires_grad_(False).eval()
        self.width: int = model.config.hidden_size
        self.vocabulary: int = model.get_input_embeddings().num_embeddings

    @property
    def hashes(self) -> dict[str, str]:
        """Return the hash (`eyechart.models.hashing`) of every weight as it was loaded, by parameter name."""
        if self._hashes is None:
            self._hashes = self._files.of(self.model) if self._files is not None else model_hashes(self.model)
        return self._hashes

    def train(self, mode: bool = True) -> LanguageModel:
        """Remain in eval mode whatever `mode` is, because the model is frozen."""
        return self

    def embed(self, ids: Tensor) -> Tensor:
        """Return the text embeddings of token ids, [...] -> [...,E]."""
        embeds: Tensor = self.model.get_input_embeddings()(ids)
        return embeds

    def text_rms(self) -> float:
        """Return the root mean square of the embedding layer's outputs over the whole vocabulary.

        The weight table alone is not enough, because an embedding layer may scale its output. Gemma's embedding layer,
        for example, multiplies by the square root of the width.
        """
        layer = self.model.get_input_embeddings()
        ids_K = torch.arange(self.vocabulary, device=layer.weight.device)
        # The sum is computed in slices, because the float32 embeddings of a large model would take gigabytes of memory.
        total = sum(float(layer(part_K).detach().float().pow(2).sum()) for part_K in torch.split(ids_K, 8192))
        return float((total / (len(ids_K) * self.width)) ** 0.5)

    def read(self, embeds_GTE: Tensor) -> DynamicCache:
        """Run the model on G prefixes of equal length, and return the keys and values that `nll` takes as `past`."""
        cache = DynamicCache(config=self.model.config)
        self.model.model(inputs_embeds=embeds_GTE, past_key_values=cache, use_cache=True)
        return cache

    def nll(self, embeds_BTE: Tensor, labels_BT: Tensor, past: DynamicCache | None = None) -> TokenNLL:
        """Compute the teacher-forced NLL of the label tokens.

        Rows are padded on the right. Because attention is causal, no token attends to the padding after it, and no
        attention mask is needed. Attention without a mask is faster, and a wrong mask is impossible.

        Args:
            embeds_BTE: input embeddings.
            labels_BT: the token id at label positions, and IGNORE_INDEX elsewhere. The label at position t is predicted
                from position t-1.
            past: the keys and values of each row's prefix, as returned by `read`; all B prefixes must have the same
                length. The call appends its own keys and values to this cache.

        Returns:
            The NLL of every label token in nats. The LM head is applied only where a label is predicted: with a large
            vocabulary, computing the logits of all positions would take most of the time.
        """
        # The last position is not an input, because no label is predicted from it.
        read = self.model.model(inputs_embeds=embeds_BTE[:, :-1], past_key_values=past, use_cache=past is not None)
        hidden_BTE = read.last_hidden_state
        targets_BT = labels_BT[:, 1:]
        keep_BT = targets_BT != IGNORE_INDEX
        logits_NK = self.model.lm_head(hidden_BTE[keep_BT]).float()
        nll_N = F.cross_entropy(logits_NK, targets_BT[keep_BT], reduction="none")
        return TokenNLL(nll_N, keep_BT.sum(dim=1))

    @torch.no_grad()
    def generate(self, prompts: list[Tensor], eos_id: int, max_new_tokens: int) -> list[list[int]]:
        """Generate a continuation of embedded prompts by greedy decoding.

        Args:
            prompts: one tensor [T_i,E] per sample. The prompts are padded on the left with an attention mask, so that
                batching does not change the results.
            eos_id: the id of the token at which generation stops. This token is not part of the result.
            max_new_tokens: the maximum number of new tokens per sample.

        Returns:
            The new token ids of each sample, up to but without EOS.
        """
        longest = max(len(p) for p in prompts)
        embeds_BTE = torch.stack([F.pad(p, (0, 0, longest - len(p), 0)) for p in prompts])
        lengths_B = torch.tensor([len(p) for p in prompts], device=embeds_BTE.device)
        positions_T = torch.arange(longest, device=embeds_BTE.device)
        attention_BT = (positions_T[None, :] >= longest - lengths_B[:, None]).long()
        out_BT = self.model.generate(
            inputs_embeds=embeds_BTE,
            attention_mask=attention_BT,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
        )
        return [_before(row, eos_id) for row in out_BT.tolist()]


def _before(ids: list[int], stop: int) -> list[int]:
    return ids[: ids.index(stop)] if stop in ids else ids


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Load the tokenizer of the language model `name`.

    Raises:
        ValueError: the tokenizer is missing or cannot be read.
    """
    place = locate(name)
    try:
        with hub_bounded(place):
            return AutoTokenizer.from_pretrained(place)
    except (OSError, ImportError) as error:
        raise ValueError(explain_absence(name, "model.llm", error)) from error
    except Exception as error:  # the tokenizers library raises a bare Exception for a damaged tokenizer.json
        raise ValueError(unreadable(name, "model.llm", "tokenizer", error)) from error


def load_llm(name: str, dtype: torch.dtype, attention: str) -> LanguageModel:
    """Load a Qwen3 language model from a folder or from the hub.

    Raises:
        ValueError: the model was not found, or weights are missing from its checkpoint.
    """
    return LanguageModel(*load_hashed(Qwen3ForCausalLM, name, "model.llm", dtype, attention))
