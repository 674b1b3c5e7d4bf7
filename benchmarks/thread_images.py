"""Threads in which pictures and text do not fit: placeholders, grids, positions, token types, sizes, a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from batches import Item
from thread_case import Case
from thread_rows import flags, items_of, trl_rows
from thread_stack import ROWS, Job

TEXT = ("input_ids", "attention_mask", "labels", "mm_token_type_ids", "token_type_ids")
Batch = dict[str, Any]


def within_images(job: Job) -> None:
    """`max_length` ends inside the pictures; TRL cuts prompts and completions after the processor has run."""
    job.rows = trl_rows(items_of(ROWS, job.seed), "completion")
    job.arguments["max_length"] = 8


def cut_off(length: int) -> Callable[[Job], None]:
    """All text is cut to a length after the processor has run."""
    return lambda job: job.through(lambda b: b | {key: b[key][:, :length] for key in TEXT if key in b})


def without_placeholders(job: Job) -> None:
    """The rows have no `<image>`; the pictures are passed all the same."""
    made = job.made

    def collate(items: Sequence[Item]) -> Batch:
        full, bare = made.batch(items), made.batch([Item((), item.texts) for item in items])
        return {key: value for key, value in full.items() if key not in TEXT} | bare

    job.collate = collate


def image_generated(job: Job) -> None:
    """A rollout wrote an image id into its answer."""
    image = job.made.config.image_token_id

    def change(batch: Batch) -> Batch:
        place = int((batch["labels"][0] != -100).nonzero()[1])
        for key in ("input_ids", "labels"):
            batch[key][0, place] = image
        return batch

    job.through(change)


def grid_of_another_size(job: Job) -> None:
    """Placeholders are counted for the original pictures, grids and pixels come from enlarged ones."""
    made = job.made

    def collate(items: Sequence[Item]) -> Batch:
        enlarged = [Item(tuple(p.resize((48, 48)) for p in item.images), item.texts) for item in items]
        large = made.batch(enlarged)
        return made.batch(items) | {key: large[key] for key in ("pixel_values", "image_grid_thw")}

    job.collate = collate


def packed(mask: bool) -> Callable[[Job], None]:
    """Rows are joined into one sequence, with positions that start again at every row."""

    def change(job: Job) -> None:
        made = job.made

        def collate(items: Sequence[Item]) -> Batch:
            parts = [made.batch([item]) for item in items[:2]]
            batch = {key: torch.cat([part[key] for part in parts], dim=1 if key in TEXT else 0) for key in parts[0]}
            batch["position_ids"] = torch.cat([torch.arange(part["input_ids"].shape[1]) for part in parts])[None]
            return batch if mask else {key: value for key, value in batch.items() if key != "attention_mask"}

        job.collate = collate

    return change


def shrunk(job: Job) -> None:
    """Every picture is resized to one longest side before the processor sees it."""
    made = job.made

    def small(image: Any) -> Any:
        scale = 16 / max(image.size)
        return image.resize(tuple(max(8, round(side * scale)) for side in image.size))

    job.collate = lambda items: made.batch([Item(tuple(map(small, item.images)), item.texts) for item in items])


def limit_ignored(job: Job) -> None:
    """The training passes a larger `max_pixels` than the processor is saved with."""
    made = job.made
    large = {"size": {"shortest_edge": 64, "longest_edge": 4096}}

    def collate(items: Sequence[Item]) -> Batch:
        enlarged = [Item(tuple(p.resize((56, 56)) for p in item.images), item.texts) for item in items]
        return made.batch(enlarged, images_kwargs=large)

    job.collate = collate


def cached_by_bytes(job: Job) -> None:
    """A cache of pictures whose key is their bytes, without size and mode."""
    made, cache = job.made, dict[bytes, Any]()
    job.rows = flags(ROWS)

    def served(image: Any) -> Any:
        return cache.setdefault(image.tobytes(), image)

    job.collate = lambda items: made.batch([Item(tuple(map(served, item.images)), item.texts) for item in items])


def types_of_zeros(job: Job) -> None:
    """Token types that the model asks for in training are passed as zeros, so attention in pictures is causal."""
    job.through(lambda batch: batch | {"token_type_ids": torch.zeros_like(batch["input_ids"])})


OF_IMAGES = (
    Case(
        "max-length-in-image",
        "max_length cuts placeholders",
        "TRL",
        within_images,
        "qwen2_5_vl",
        "12 huggingface/trl#5904",
        "image-truncated",
        twin="trl-completion",
    ),
    Case(
        "cut-in-tiles",
        "truncation after the processor ends inside the tiles",
        "Trainer",
        cut_off(16),
        "smolvlm",
        "13 NVIDIA-NeMo/Automodel#2689",
        "image-truncated",
        twin="smolvlm",
    ),
    Case(
        "cutoff-len",
        "cutoff_len after the processor ends inside the picture",
        "Trainer",
        cut_off(8),
        "qwen2_5_vl",
        "14 hiyouga/LLaMA-Factory#9313",
        "image-truncated",
        twin="trainer-answers",
    ),
    Case(
        "no-image-in-rows",
        "rows without <image>, pictures passed",
        "Trainer",
        without_placeholders,
        "llava",
        "15 2U1/Qwen-VL-Series-Finetune#218",
        "no-placeholder",
        twin="llava",
    ),
    Case(
        "image-id-in-answer",
        "a generated image id in the answer",
        "Trainer",
        image_generated,
        "qwen2_5_vl",
        "16 volcengine/verl#3469",
        "placeholder-in-caption",
        twin="trainer-answers",
    ),
    Case(
        "grid-of-another-size",
        "placeholders and grids of two resolutions",
        "Trainer",
        grid_of_another_size,
        "qwen2_5_vl",
        "17 hiyouga/LLaMA-Factory#10589",
        "placeholder-count",
        twin="trainer-answers",
    ),
    Case(
        "packed-flat-positions",
        "packed rows with one-dimensional positions",
        "Trainer",
        packed(mask=False),
        "qwen2_5_vl",
        "18 NVIDIA-NeMo/Automodel#2172",
        "positions-wrong",
        twin="trainer-answers",
    ),
    Case(
        "packed-one-mask",
        "packed rows with 2-D position_ids and a mask of ones",
        "Trainer",
        packed(mask=True),
        "gemma3",
        "19 axolotl-ai-cloud/axolotl#3817",
        "batch-dependent",
        twin="gemma3",
    ),
    Case(
        "shrunk",
        "every picture shrunk to one longest side",
        "Trainer",
        shrunk,
        "qwen2_5_vl",
        "27 unslothai/unsloth#6129",
        "resolution-differs",
        twin="trainer-answers",
    ),
    Case(
        "limit-ignored",
        "larger max_pixels in training than in the saved processor",
        "Trainer",
        limit_ignored,
        "qwen2_5_vl",
        "28 huggingface/transformers#41955",
        "resolution-differs",
        twin="trainer-answers",
    ),
    Case(
        "cached-by-bytes",
        "image cache keyed by bytes without size",
        "Trainer",
        cached_by_bytes,
        "qwen2_5_vl",
        "29 modelscope/ms-swift#9605",
        "image-order",
        twin="flags",
    ),
    Case(
        "types-of-zeros",
        "token_type_ids of zeros: image tokens attend causally",
        "Trainer",
        types_of_zeros,
        "gemma3",
        "30 huggingface/transformers#39389",
        "token-types-misaligned",
        twin="gemma3",
    ),
)
