"""The own forward passes of a checkpoint, as its documentation describes them; eyechart is not imported.

    python benchmarks/model_oracle.py CHECKPOINT ROWS.json SIZE OUTPUT.json

SIZE is `WIDTHxHEIGHT`: eyechart brings every picture to one size before the model's own processor gets it, and turns
tiling off, and so does this script. For every row and every picture that OUTPUT has to hold (its own, and that of the
donor in the rows file), it writes the token ids of the answer and their losses.
"""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

ONE_VIEW = ("do_image_splitting", "crop_to_patches", "do_pan_and_scan")


def main(checkpoint: str, rows_file: str, size: str, output: str) -> None:
    """Write the losses."""
    assert "eyechart" not in sys.modules, "the oracle must not use what it tests"
    rows = json.loads(Path(rows_file).read_text(encoding="utf-8"))
    width, height = (int(side) for side in size.split("x"))
    oracle = Oracle(checkpoint, (width, height))
    found = [
        {"row": row["row"], "picture": picture, **oracle.losses(row, picture)}
        for row in rows
        for picture in [row["image"], *row.get("donors", [])]
    ]
    Path(output).write_text(json.dumps(found), encoding="utf-8")


_APPENDABLE = {"input_ids", "attention_mask", "pixel_values"}
"""Inputs of a prompt to which an answer can be appended."""


def _appended(prompt: dict[str, Any], whole: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
    """Return the prompt's inputs, as used to generate, followed by the ids that only the whole has."""
    prompt_T, whole_T = prompt["input_ids"][0], whole["input_ids"][0]
    shorter = min(len(prompt_T), len(whole_T))
    same = int((prompt_T[:shorter] == whole_T[:shorter]).int().cumprod(0).sum())
    answer_T = whole_T[same : len(whole_T) - (len(prompt_T) - same)]
    ids_T = torch.cat([prompt_T, answer_T])
    return {**prompt, "input_ids": ids_T[None], "attention_mask": torch.ones_like(ids_T)[None]}, ids_T


class Oracle:
    """A checkpoint and its own processor."""

    def __init__(self, checkpoint: str, size: tuple[int, int]) -> None:
        """Load both with the Auto classes."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        warnings.filterwarnings("ignore")
        self.processor: Any = AutoProcessor.from_pretrained(checkpoint)
        if not getattr(self.processor, "chat_template", None):  # some processors leave it to their tokenizer
            self.processor.chat_template = getattr(self.processor.tokenizer, "chat_template", None)
        try:
            self.model: Any = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
        except ValueError as error:
            if "attn_implementation" not in str(error) and "sdpa" not in str(error).lower():
                raise
            self.model = AutoModelForImageTextToText.from_pretrained(checkpoint, attn_implementation="eager").eval()
        self.size = size
        self.names = set(inspect.signature(self.model.forward).parameters) - {"labels"}
        """Names of the model's inputs; a processor may make more."""
        self.adds_image = (
            not self.processor.chat_template
            and self._takes("a", size)
            and not self._takes(f"{self._image_token()}a", size)
        )
        """Whether the processor puts image positions before a text, and does not want them in it."""

    @torch.no_grad()
    def losses(self, row: dict[str, Any], picture: str) -> dict[str, Any]:
        """Return the answer's token ids and their losses, for one picture."""
        image = self._image(picture)
        if type(self.processor).__name__ == "PaliGemmaProcessor":
            return self._with_suffix(row, image)
        prompt, whole = self._texts(row)
        first, inputs = self._inputs(prompt, image), self._inputs(whole, image)
        start, ids_T = first["input_ids"].shape[1], inputs["input_ids"][0]
        if not torch.equal(first["input_ids"][0], ids_T[:start]) and set(inputs) <= _APPENDABLE:
            inputs, ids_T = _appended(first, inputs)  # this processor ends every text with a token (Chameleon)
        if getattr(self.model.config, "is_encoder_decoder", False):
            labels_BT = self.processor.tokenizer(row["caption"], return_tensors="pt")["input_ids"]
            out = self.model(**self._inputs(prompt, image), labels=labels_BT)
            nll_N = F.cross_entropy(out.logits[0].float(), labels_BT[0], reduction="none")
            return {"ids": labels_BT[0].tolist(), "nll": nll_N.tolist()}
        logits_TK = self.model(**inputs, use_cache=False).logits[0].float()
        if len(logits_TK) < len(ids_T):
            raise ValueError(f"{len(logits_TK)} positions of logits for {len(ids_T)} ids")
        logits_TK = logits_TK[len(logits_TK) - len(ids_T) :]  # some models add image positions in front of the ids
        nll_N = F.cross_entropy(logits_TK[start - 1 : -1], ids_T[start:], reduction="none")
        return {"ids": ids_T[start:].tolist(), "nll": nll_N.tolist()}

    def _with_suffix(self, row: dict[str, Any], image: Image.Image) -> dict[str, Any]:
        """Return what `losses` does, for a processor that takes the answer as an argument of its own."""
        text = f"{self._image_token()}{row['question']}"
        inputs = self.processor(text=[text], images=[image], suffix=[row["caption"]], return_tensors="pt")
        start = int((inputs["token_type_ids"][0] == 0).sum())
        logits_TK = self.model(**{key: value for key, value in inputs.items() if key != "labels"}).logits[0].float()
        ids_T = inputs["input_ids"][0]
        nll_N = F.cross_entropy(logits_TK[start - 1 : -1], ids_T[start:], reduction="none")
        return {"ids": ids_T[start:].tolist(), "nll": nll_N.tolist()}

    def _image_token(self) -> str:
        return str(getattr(self.processor, "image_token", "<image>"))

    def _takes(self, text: str, size: tuple[int, int]) -> bool:
        """Return whether processor and model run on this text and one image."""
        try:
            self.model(**self._inputs(text, Image.new("RGB", size)))
        except Exception:
            return False
        return True

    def _image(self, picture: str) -> Image.Image:
        image = Image.open(picture).convert("RGB")
        resample = getattr(self.processor.image_processor, "resample", None)
        filter_ = Image.Resampling.BICUBIC if resample is None else Image.Resampling(int(resample))
        return image if image.size == self.size else image.resize(self.size, filter_)

    def _texts(self, row: dict[str, Any]) -> tuple[str, str]:
        """Return the prompt up to the answer, and prompt and answer."""
        if getattr(self.processor, "chat_template", None):
            turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["question"]}]}]
            answer = {"role": "assistant", "content": [{"type": "text", "text": row["caption"]}]}
            prompt = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            whole = self.processor.apply_chat_template([*turns, answer], tokenize=False)
            return prompt, whole if whole.startswith(prompt) else prompt + row["caption"]
        token = "" if self.adds_image else self._image_token()
        prompt = f"{token}{row['question']}\n"
        return prompt, prompt + row["caption"]

    def _inputs(self, text: str, image: Image.Image) -> dict[str, Any]:
        known = getattr(self.processor.image_processor, "valid_kwargs", None)
        accepted = set(getattr(known, "__annotations__", ())) | set(vars(self.processor.image_processor))
        options = {name: False for name in ONE_VIEW if name in accepted}
        bos = getattr(self.processor.tokenizer, "bos_token", None)
        special = not (getattr(self.processor, "chat_template", None) and bos and text.startswith(bos))
        given = {"text": [text], "return_tensors": "pt", "add_special_tokens": special, **options}
        try:
            made = self.processor(images=[image], **given)
        except (ValueError, TypeError):  # some processors want a list of images per text
            made = self.processor(images=[[image]], **given)
        floats = {
            key: value.float() for key, value in made.items() if torch.is_tensor(value) and value.is_floating_point()
        }
        return {key: value for key, value in {**made, **floats}.items() if key in self.names}


if __name__ == "__main__":
    main(*sys.argv[1:])
