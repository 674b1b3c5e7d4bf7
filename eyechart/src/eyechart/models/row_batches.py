"""Makes batches from rows, as a collator would, for models in which pixels are replaced instead of image features.

All images are resized to the same size before the model's own processor reads them, so that each image can replace any
other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from eyechart.data.images import ImageError, ImageSpec, load_image
from eyechart.exits import InputError
from eyechart.processors.loading import common_size
from eyechart.seam import Row
from eyechart.settings import ScoreSettings

_PLACEHOLDER = "<image>"


def batches_of_rows(rows: Sequence[Row], processor: Any, settings: ScoreSettings) -> Iterator[dict[str, Any]]:
    """Yield batches like those of a collator; the chat template formats the prompt and the answer of each row.

    Raises:
        InputError: the processor has no chat template, a row has several turns or several images, or an image cannot be
            read.
    """
    if not getattr(processor, "chat_template", None):
        raise InputError(
            "processor: it has no chat template, so rows cannot be converted to text",
            "pass batches of your collator instead of rows",
        )
    if several := [row.row for row in rows if row.conversation or row.more_images]:
        raise InputError(
            f"row {several[0]}: rows with several turns or images cannot be scored by pixels",
            "pass batches of your collator instead of rows, or leave these rows out",
        )
    spec, size = common_size(processor.image_processor, settings.image_size), settings.ablation.batch_size
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        texts = [str(processor.apply_chat_template(_turns(row, settings.prompt), tokenize=False)) for row in some]
        bos = getattr(processor.tokenizer, "bos_token", None)
        made = processor(
            text=texts,
            images=[[_image(row, spec, settings.max_pixels)] for row in some],
            return_tensors="pt",
            padding=True,
            padding_side="right",
            add_special_tokens=not (bos and texts[0].startswith(bos)),
        )
        yield dict(made)


def _turns(row: Row, request: str | None) -> list[dict[str, Any]]:
    before, _, after = (request or row.human).partition(_PLACEHOLDER)
    texts = [{"type": "text", "text": part.strip()} for part in (before, after)]
    parts = [texts[0], {"type": "image"}, texts[1]]
    answer = {"type": "text", "text": row.caption}
    return [
        {"role": "user", "content": [part for part in parts if part["type"] == "image" or part["text"]]},
        {"role": "assistant", "content": [answer]},
    ]


def _image(row: Row, spec: ImageSpec, most_pixels: int) -> Image.Image:
    try:
        pixels_CHW = load_image(row.path, spec, most_pixels)
    except ImageError as error:
        raise InputError(
            f"row {row.row}: {row.path}: {error.detail}", "leave this row out, or fix its image"
        ) from error
    return Image.fromarray(pixels_CHW.permute(1, 2, 0).contiguous().numpy())
