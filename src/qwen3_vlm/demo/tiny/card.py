"""The files that are written next to the weights: the model card, and a config that is ready to run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from eyechart.outside.yaml_text import write_yaml
from eyechart.seam import Reject, Row
from qwen3_vlm.config import PromptConfig
from qwen3_vlm.data.prompt import PromptBuilder
from qwen3_vlm.demo.tiny import language, tower
from qwen3_vlm.demo.tiny.documents import WITHOUT_NOTES
from qwen3_vlm.demo.tiny.reading import GATE, GATED, NOT_GATED

CONNECTOR = {
    "latents": 8, "depth": 2, "heads": 4, "head_dim": 24, "mlp_ratio": 1.0, "key_positions": True, "output_norm": True,
}  # fmt: skip
TRAIN = {
    "batch_size": 4, "accumulation": 4, "micro_batch_size": 16, "epochs": 3, "lr": 2e-3,
    "schedule": "one-cycle", "warmup_ratio": 0.08, "weight_decay": 0.01, "betas": [0.9, 0.98],
}  # fmt: skip
"""Training settings that work for connectors on these backbones."""
LEAST_ROOM, ROOM_STEP = 256, 32
"""Smallest max_seq_len that is written, and the number of which it is a multiple, both in tokens."""


def size_of(folder: Path) -> int:
    """Return the total size of all files under `folder` in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def for_worlds(*, steps: int, loss: float, read: Mapping[str, float], seen: Mapping[str, float], folder: Path) -> str:
    """Return the model card of the backbones for scenes and digits, in Markdown."""
    return f"""# Tiny backbones for the embedded worlds

Two real models, a thousandth of the usual size, that replace SigLIP2 and Qwen3-8B-Base if there is no network, no GPU
or no time: `vision/` is a `SiglipVisionModel`, `llm/` a `Qwen3ForCausalLM` with its tokenizer. Both load with
`from_pretrained`, like the real ones. Weights are fp16 on disk and float32 in memory; all files together have
{size_of(folder) / 1e6:.2f} MB.

Made by `python -m qwen3_vlm.demo.tiny --steps {steps}` (about ten minutes on two CPU cores). License: Apache-2.0, like
the rest of the repository; the digits come with scikit-learn (UCI ML hand-written digits, CC BY 4.0).

## Vision tower

{_tower_line()} Its first layer is initialised from the whitened patches of
training images. The tower was trained for {steps} steps of 36 scenes and 12 digits to predict, at every patch, what the
patch shows: colour, shape, size and position of the object; texture, colour and count of the scene; digit and stroke
weight. **These are attribute labels from the generator that also draws the data sets, but with other seeds**: the tower
has seen none of the scenes in the data sets, and of the digits only the 1,500 training digits (rotated, stretched,
shifted). It works well only for these worlds.

Share of patches that are classified correctly (500 new scenes, only patches on an object; digits: the training digits):

{_table(seen)}

## Language model

{_language_line()}
Trained for {steps} steps of {language.BATCH} documents. A document has notes about a picture between `<|vision_start|>`
and `<|vision_end|>`, then its caption; the loss is computed only on the caption (last training loss {loss:.3f} nats per
token). The notes list the facts as single words. In half of the documents, all words are shuffled; in the other half,
the words about one object stay together. In half of the documents, several words share a position and their embeddings
are added with noise, which resembles the visual tokens of a connector. {WITHOUT_NOTES:.0%} of the documents have no
notes. The padding token is EOS, `<|endoftext|>`, as in Qwen3-Base.

Reading accuracy: how often the greedy caption agrees with plain notes, over 1,000 documents drawn from another seed. If
it is below {GATE} for one of {", ".join(GATED)}, the models are not written.

{_table(read)}

## What they cannot do

- {_cannot(read)}
- Relations between objects ("left of") do not occur in the captions and were not learnt.
- They cannot process real photographs, other shapes or colours, other styles of digits, or English beyond these
  captions.
"""


def for_file(data: Path, *, rows: int, words: int, steps: int, loss: float, marks: Mapping[str, float]) -> str:
    """Return the model card of backbones made for a user's own file, in Markdown."""
    return f"""# Tiny backbones for {data.name}

Made by `python -m qwen3_vlm.demo.tiny` from the captions of {rows} training rows, with {steps} steps for each backbone.
Held-out rows were not used. These backbones show whether a pipeline works on this data, but do not replace real ones.

- Vision tower: {_tower_line()} Trained to predict {words} words in the caption of a picture.
- Language model: {_language_line()} Trained to write a caption from its words in random order
  (last training loss {loss:.3f} nats per token).

Tested on training rows that were set aside if there were enough (50): `words` is the share of a caption's words that
the language model writes if the notes contain them, `word_precision` is the mean average precision of the tower's
words, and `chance` is the value for random guesses.

{_table(marks)}

If `words` is low, the language model ignores its notes, and no connector can give it information about the image: raise
`--steps`. If `word_precision` is near `chance`, a tower of this size cannot learn the words of these captions.
"""


def lengths_of(records: Sequence[Row], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return how many tokens a run with the written config needs for each row without truncation.

    The number includes prompt, image block, caption and EOS.
    """
    encoded = PromptBuilder(tokenizer, PromptConfig(), int(CONNECTOR["latents"]), sys.maxsize).encode(records)
    return [item.full_length for item in encoded if not isinstance(item, Reject)]


def room_for(lengths: Sequence[int]) -> int:
    """Return the max_seq_len that truncates no row of these lengths, limited to the language model's positions."""
    needed = -(-max(lengths, default=0) // ROOM_STEP) * ROOM_STEP
    return min(max(LEAST_ROOM, needed), language.POSITIONS)


def config_for_file(output: Path, seed: int, data: Mapping[str, object]) -> str:
    """Return the config of a run on these backbones and this file as YAML; `data` is its section of that name."""
    settings = {
        "output_dir": f"outputs/stage1_align_{output.name}",
        "seed": seed,
        "threads": 1,
        "model": {"vision": str(output / "vision"), "llm": str(output / "llm")},
        "connector": CONNECTOR,
        "data": dict(data),
        "train": TRAIN,
    }
    head = "# Made by `python -m qwen3_vlm.demo.tiny`. seed, max_samples and eval_ratio select the rows that the\n"
    head += "# backbones were NOT trained on: if you change them, the backbones may have seen held-out rows.\n"
    return head + write_yaml(settings)


def _tower_line() -> str:
    shape = f"width {tower.WIDTH}, {tower.LAYERS} layers, {tower.HEADS} heads, MLP {tower.MLP}"
    return f"Patches of {tower.PATCH} px, {shape}."


def _language_line() -> str:
    return (
        f"Width {language.HIDDEN}, {language.LAYERS} layers, {language.HEADS} query and {language.KEY_HEADS} key heads "
        f"of {language.HEAD_DIM}, MLP {language.MLP}, tied embeddings."
    )


def _cannot(read: Mapping[str, float]) -> str:
    found = ", ".join(f"{name} {read[name]:.2f}" for name in NOT_GATED if name in read)
    return (
        "They cannot reliably name the colour of each of two shapes, or the position of each of two objects. Half of\n"
        f"  the notes do not contain this, so guessing was learnt, too (accuracy when reading: {found})."
    )


def _table(marks: Mapping[str, float]) -> str:
    if not marks:
        return "Not measured: too few rows."
    lines = [f"| {name} | {value:.3f} |" for name, value in marks.items()]
    return "\n".join(["| what | share |", "|---|---|", *lines])
