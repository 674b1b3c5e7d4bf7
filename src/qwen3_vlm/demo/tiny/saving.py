"""Saves models with fp16 weights on disk that are loaded as fp32, and a folder of them as a whole."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel

from eyechart.signals import draft_folder, finished


@contextmanager
def appearing(output: Path) -> Iterator[Path]:
    """Yield a draft folder; its content appears in `output` at the end, and replaces what has the same names there.

    If the block is left by an error or a signal, `output` stays as it was.

    Raises:
        ValueError: `output` is something else than a folder.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: expected a folder, {output} is a file; name another")
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_folder(output.parent, f".{output.name}-")
    try:
        yield draft
        output.mkdir(exist_ok=True)
        for made in sorted(draft.iterdir()):
            if (output / made.name).is_dir():
                shutil.rmtree(output / made.name)
            made.rename(output / made.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        finished(draft)


def save_half(model: PreTrainedModel, folder: Path) -> None:
    """Call `save_pretrained` with fp16 weights, but with float32 in the config.

    `from_pretrained` takes the dtype from the config, so the backbones compute in fp32 on a CPU while the files have
    half the size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.float16).save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
