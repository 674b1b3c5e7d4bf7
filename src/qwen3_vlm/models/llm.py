"""The frozen language model: computes the NLL of label tokens, or generates ids, from input embeddings."""

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
    """A Qwen3 whose weights never change; gradients pass through it to its input embeddings."""

    def __init__(self, model: Qwen3ForCausalLM, files: HashedFiles | None = None) -> None:
        """Wrap a loaded model; `files` hashes its weights, if it was loaded from files."""
        super().__init__()
        self._files = files
        self._hashes: dict[str, str] | None = None
        self.model = model.requires_grad_(False).eval()
        self.width: int = model.config.hidden_size
        self.vocabulary: int = model.get_input_embeddings().num_embeddings

    @property
    def hashes(self) -> dict[str, str]:
        """Return the hash of every weight (`eyechart.models.hashing`) as it was loaded, by name."""
        if self._hashes is None:
            self._hashes = self._files.of(self.model) if self._files is not None else model_hashes(self.model)
        return self._hashes

    def train(self, mode: bool = True) -> LanguageModel:
        """Stay in eval mode, because the model is frozen."""
        return self

    def embed(self, ids: Tensor) -> Tensor:
        """Return the text embeddings of ids, [...] -> [...,E]."""
        embeds: Tensor = self.model.get_input_embeddings()(ids)
        return embeds

    def text_rms(self) -> float:
        """Return the root mean square of all embeddings as the model's embedding layer outputs them.

        The table is not used directly, because a layer may multiply its values (Gemma's does, by the root of the
        width).
        """
        layer = self.model.get_input_embeddings()
        ids_K = torch.arange(self.vocabulary, device=layer.weight.device)
        # Compute in slices, because the squared float32 embeddings of a large model would take gigabytes.
        total = sum(float(layer(part_K).detach().float().pow(2).sum()) for part_K in torch.split(ids_K, 8192))
        return float((total / (len(ids_K) * self.width)) ** 0.5)

    def read(self, embeds_GTE: Tensor) -> DynamicCache:
        """Return keys and values of G prefixes of equal length, for `nll` of the text that follows them."""
        cache = DynamicCache(config=self.model.config)
        self.model.model(inputs_embeds=embeds_GTE, past_key_values=cache, use_cache=True)
        return cache

    def nll(self, embeds_BTE: Tensor, labels_BT: Tensor, past: DynamicCache | None = None) -> TokenNLL:
        """Compute the teacher-forced NLL of the label tokens.

        Rows are padded on the right. Attention is causal, so no real position sees padding and no mask is needed.
        Without a mask, attention is faster, and a wrong mask is impossible.

        Args:
            embeds_BTE: input embeddings.
            labels_BT: token id at label positions, IGNORE_INDEX elsewhere; position t is predicted from t-1.
            past: keys and values of the prefix of each row, from `read`; all B prefixes have equal length. The keys and
                values of these rows are appended to it.

        Returns:
            The NLL in nats. The LM head is applied only to label positions, because with a large vocabulary the logits
            of the other positions would be most of the work.
        """
        # Nothing is predicted from the last position, so it is left out.
        read = self.model.model(inputs_embeds=embeds_BTE[:, :-1], past_key_values=past, use_cache=past is not None)
        hidden_BTE = read.last_hidden_state
        targets_BT = labels_BT[:, 1:]
        keep_BT = targets_BT != IGNORE_INDEX
        logits_NK = self.model.lm_head(hidden_BTE[keep_BT]).float()
        nll_N = F.cross_entropy(logits_NK, targets_BT[keep_BT], reduction="none")
        return TokenNLL(nll_N, keep_BT.sum(dim=1))

    @torch.no_grad()
    def generate(self, prompts: list[Tensor], eos_id: int, max_new_tokens: int) -> list[list[int]]:
        """Continue embedded prompts greedily.

        Args:
            prompts: one [T_i,E] per sample. They are padded on the left here, so that batching does not change results.
            eos_id: id of the token at which generation stops; it is not part of the result.
            max_new_tokens: largest number of new tokens.

        Returns:
            New token ids per sample, cut before EOS.
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
    """Load the language model's own tokenizer.

    Raises:
        ValueError: the tokenizer is missing or cannot be read.
    """
    place = locate(name)
    try:
        with hub_bounded(place):
            return AutoTokenizer.from_pretrained(place)
    except (OSError, ImportError) as error:
        raise ValueError(explain_absence(name, "model.llm", error)) from error
    except Exception as error:  # the tokenizers library raises bare Exceptions on a damaged tokenizer.json
        raise ValueError(unreadable(name, "model.llm", "tokenizer", error)) from error


def load_llm(name: str, dtype: torch.dtype, attention: str) -> LanguageModel:
    """Load a Qwen3 from a folder or the hub.

    Raises:
        ValueError: the model was not found, or some of its weights are not in the checkpoint.
    """
    return LanguageModel(*load_hashed(Qwen3ForCausalLM, name, "model.llm", dtype, attention))
