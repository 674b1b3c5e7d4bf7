"""What the score of a model by name costs with and without what it keeps: image inputs, and prompts with their image.

    python benchmarks/named_cost.py [--rows 24] [--rounds 2]

One run scores a LLaVA of random weights (256 visual tokens) on rows with one question, in turn with both switched off
and with both on: check 1 and matching, with captions written for a third of the rows. Printed are the pictures that the
processor was given, the forward passes and their tokens, the CPU time of this process, and the largest difference of a
loss. Exit code 1 if a loss differs by more than 1e-4 nats.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers as hf
from PIL import Image
from torch import Tensor

from eyechart.api.score import score
from eyechart.models.image_inputs import ImageInputs
from eyechart.models.prefixes import Prefixes
from eyechart.processors.prompts import PromptWriter
from eyechart.results import Results
from eyechart.settings import ScoreSettings, settings_of
from model_checkpoints import CAPTIONS, make_tokenizer
from model_special import Special

SIDE, PATCH, WIDTH, LAYERS = 224, 14, 128, 4
CONDITIONS = "standard,matching"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
ALLOWED = 1e-4


@dataclass
class Cost:
    """What one score took."""

    pictures: int = 0
    """Pictures given to the processor, counted as often as they are given."""
    passes: int = 0
    tokens: int = 0
    """Token ids of all forward passes, padding included."""
    seconds: float = 0.0
    """CPU time of this process."""
    losses: dict[str, float] = field(default_factory=dict)
    """Mean loss or score by its name, in nats."""


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2, help="scores of each kind; the least CPU time of each counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        model, data = Path(folder) / "model", write_rows(Path(folder), options.rows)
        save_model(model)
        how = settings_of({
            "threads": 1, "model.device": "cpu", "ablation.batch_size": 8, "ablation.gallery": options.rows // 3,
            "ablation.matching_k": 16,
        })  # fmt: skip
        found = [(off, cost_of(model, data, how, off)) for _ in range(options.rounds) for off in (True, False)]
    before, after = (min((c for off, c in found if off is kind), key=lambda c: c.seconds) for kind in (True, False))
    print(f"{options.rows} rows, {CONDITIONS}, transformers {hf.__version__}, torch {torch.__version__}\n")
    print("| | each time | kept | ratio |\n|---|---|---|---|")
    for name in ("pictures", "passes", "tokens", "seconds"):
        one, two = getattr(before, name), getattr(after, name)
        print(f"| {name} | {one:.5g} | {two:.5g} | {one / two:.2f} |")
    difference = max(abs(before.losses[name] - after.losses[name]) for name in before.losses)
    print(f"\nlargest difference of {len(before.losses)} losses: {difference:.1e} nats")
    return int(not difference <= ALLOWED)


def cost_of(model: Path, data: Path, how: ScoreSettings, off: bool) -> Cost:
    """Score once, and count."""
    cost, inputs, forward = Cost(), PromptWriter.inputs, hf.LlavaForConditionalGeneration.forward

    def counting_inputs(self: PromptWriter, texts: Any, images: Any) -> Any:
        cost.pictures += len(images)
        return inputs(self, texts, images)

    def counting_forward(self: Any, *args: Any, **given: Any) -> Any:
        cost.passes += 1
        cost.tokens += given["input_ids"].numel()
        return forward(self, *args, **given)

    # The scorer reads the names of the inputs from the signature.
    counting_forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]  # mypy knows none
    with (
        patch.object(PromptWriter, "inputs", counting_inputs),
        patch.object(hf.LlavaForConditionalGeneration, "forward", counting_forward),
        switched_off() if off else nullcontext(),
    ):
        began = time.process_time()
        results = score(model, data, CONDITIONS, settings=how)
        cost.seconds = time.process_time() - began
    cost.losses = losses_of(results)
    return cost


@contextmanager
def switched_off() -> Iterator[None]:
    """Run the processor for every use of a picture, and read every sequence as a whole."""

    def of(self: ImageInputs, pixels_BCHW: Tensor) -> dict[str, Tensor]:
        return self.made([Image.fromarray(p.permute(1, 2, 0).contiguous().numpy()) for p in pixels_BCHW.cpu()])

    def positions(self: ImageInputs, pixels_BCHW: Tensor) -> list[int]:
        self._kept.clear()
        return [self._one(pixels_CHW).positions for pixels_CHW in pixels_BCHW.cpu()]

    begin = Prefixes.__init__

    def unshared(self: Prefixes, *args: Any) -> None:
        begin(self, *args)
        self.why_not = "switched off"

    with (
        patch.object(ImageInputs, "of", of),
        patch.object(ImageInputs, "positions", positions),
        patch.object(Prefixes, "__init__", unshared),
    ):
        yield


def losses_of(results: Results) -> dict[str, float]:
    """Return the loss of every condition and the scores of matching."""
    assert results.ablation is not None and results.ablation.matching is not None
    found = {name: condition.loss for name, condition in results.ablation.conditions.items()}
    gain = results.ablation.matching.image_specific_gain.value
    return {name: value for name, value in {**found, "matching": gain}.items() if value is not None}


def save_model(folder: Path) -> None:
    """Save a LLaVA whose language model reads 256 visual tokens."""
    tokenizer = make_tokenizer(hf.LlavaProcessor, Special())
    sizes = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
    }
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=PATCH),
        text_config=hf.LlamaConfig(**sizes, vocab_size=1024, num_key_value_heads=4, max_position_embeddings=1024),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    hf.LlavaForConditionalGeneration(config).eval().save_pretrained(folder)
    sizes_of_images = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessorPil(**sizes_of_images),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


def write_rows(folder: Path, count: int) -> Path:
    """Write rows with one question, and pictures of noise."""
    rows = []
    for row in range(count):
        noise_HWC = np.random.default_rng(row).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise_HWC).save(folder / f"{row}.png")
        answer = f"{CAPTIONS[row % len(CAPTIONS)]} {row}"
        turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": answer}]
        rows.append({"id": str(row), "image": f"{row}.png", "conversations": turns})
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "rows.json"


if __name__ == "__main__":
    sys.exit(main())
