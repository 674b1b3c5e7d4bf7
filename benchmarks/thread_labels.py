"""Threads in which pictures or labels get lost: the collator, the trainer's loss, the template or a length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any
from unittest import mock

import torch
import transformers
from transformers.processing_utils import ProcessorMixin

from batches import Item, answer_labels, turns
from thread_case import Case
from thread_rows import items_of, trl_rows
from thread_stack import ROWS, Job

Batch = dict[str, Any]


def ids_only(job: Job) -> None:
    """Rows are ids, so nothing of the pictures can reach the forward pass."""
    job.check = "watch"
    job.through(lambda batch: {key: batch[key] for key in ("input_ids", "attention_mask", "labels")})


@dataclass
class Sample:
    """A row as one process sends it to the trainer; the field of the pictures is excluded from its text."""

    input_ids: list[int]
    attention_mask: list[int]
    labels: list[int]
    pictures: Any = field(default=None, metadata={"exclude": True})


def over_the_wire(job: Job) -> None:
    """Samples travel as JSON without the excluded field."""
    job.check = "watch"

    def send(batch: Batch) -> Batch:
        kept = [one.name for one in fields(Sample) if not one.metadata.get("exclude")]
        rows = zip(*(batch[name].tolist() for name in kept), strict=True)
        sent = json.dumps([vars(Sample(*row, pictures=batch["pixel_values"])) | {"pictures": None} for row in rows])
        return {name: torch.tensor([row[name] for row in json.loads(sent)]) for name in kept}

    job.through(send)


class TextFields(transformers.Trainer):
    """A trainer whose loss takes the fields of a text model."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Select the fields."""
        wanted = ("input_ids", "attention_mask", "labels")
        return super().compute_loss(model, {key: inputs[key] for key in wanted}, *args, **kwargs)


def text_fields(job: Job) -> None:
    """The loss of the trainer is that of a text model."""
    job.kind = TextFields


def images_none(job: Job) -> None:
    """The text is tokenised without pictures, as processors did with `images=None` until they refused it; NumPy."""
    job.check = "check_batch"

    def collate(items: Sequence[Item]) -> Batch:
        processor = job.made.processor
        texts = [processor.apply_chat_template(turns(item), tokenize=False) for item in items]
        batch = dict(processor.tokenizer(texts, return_tensors="np", padding=True, return_token_type_ids=False))
        ids, mask = torch.as_tensor(batch["input_ids"]), torch.as_tensor(batch["attention_mask"])
        labels = answer_labels({"input_ids": ids, "attention_mask": mask}, processor, {i.texts[1] for i in items})
        return batch | {"labels": labels.numpy()}

    job.collate = collate


def types_not_flushed(job: Job) -> None:
    """TRL as it was: after padding on the left, everything but the token types is moved to the left."""
    from trl.trainer import sft_trainer

    move = sft_trainer.flush_left

    def older(mask: Any, ids: Any, completion: Any, types: Any) -> Any:
        moved = move(mask, ids, completion)
        return (*moved, types[:, : moved[0].shape[1]])

    job.rows = trl_rows(items_of(ROWS, job.seed), "completion")
    job.patches.append(mock.patch.object(sft_trainer, "flush_left", older))


def offsets_not_shifted(job: Job) -> None:
    """Transformers as it was: spans of the answer in the short text, looked up in the text with all placeholders."""

    def older(self: Any, found: Any, spans: list[Any]) -> Any:
        offsets = found.pop("offset_mapping")
        found.pop("text_replacement_offsets", None)
        found["assistant_masks"] = [
            [int(any(a < end and b > start for start, end in spans[row])) for a, b in offsets[row]]
            for row in range(len(found["input_ids"]))
        ]
        return found

    generation_marked(job)
    job.patches.append(mock.patch.object(ProcessorMixin, "_adjust_assistant_masks_indices", older))


def generation_marked(job: Job) -> None:
    """`assistant_only_loss` with a template that marks what the assistant writes."""
    template = job.made.processor.chat_template
    answer = "{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>"
    assert answer in template
    body = template.split("{% for c in m['content'] %}")[1].split("{% endfor %}<|im_end|>")[0]
    loop = "{% for c in m['content'] %}" + body + "{% endfor %}<|im_end|>"
    marked = "{% if m['role'] == 'assistant' %}{% generation %}" + loop + "{% endgeneration %}{% else %}" + loop
    job.made.processor.chat_template = template.replace(loop, marked + "{% endif %}")
    job.arguments["assistant_only_loss"] = True


def no_generation_marks(job: Job) -> None:
    """The collator asks for assistant tokens, and the template marks none."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    job.collate = DataCollatorForVisionLanguageModeling(job.made.processor, assistant_only_loss=True)


def shortest_prompt(job: Job) -> int:
    """Number of tokens before the answer in the shortest row."""
    labels = job.made.batch(items_of(ROWS, job.seed))["labels"]
    return int((labels != -100).int().argmax(dim=1).min())


def completions_cut(job: Job) -> None:
    """`max_length` ends where the shortest answer begins."""
    job.rows = trl_rows(items_of(ROWS, job.seed), "completion")
    job.arguments["max_length"] = shortest_prompt(job)


def pad_masked_only(job: Job) -> None:
    """Labels are the ids but padding, as in a tutorial."""
    made = job.made
    job.collate = lambda items: made.batch(items, "all")


def prompt_labelled(job: Job) -> None:
    """Labels are the ids but padding and image placeholders."""
    made, image = job.made, job.made.config.image_token_id

    def collate(items: Sequence[Item]) -> Batch:
        batch = made.batch(items, "all")
        return batch | {"labels": batch["labels"].masked_fill(batch["input_ids"] == image, -100)}

    job.collate = collate


OF_LABELS = (
    Case(
        "ids-only",
        "rows carry ids only",
        "loop",
        ids_only,
        "qwen2_5_vl",
        "1 microsoft/agent-lightning#559",
        "pixels-unused",
        twin="loop-watch",
    ),
    Case(
        "excluded-on-the-wire",
        "a field excluded from serialisation strips the pixels",
        "loop",
        over_the_wire,
        "qwen2_5_vl",
        "2 PrimeIntellect-ai/prime-rl#2786",
        "pixels-unused",
        twin="loop-watch",
    ),
    Case(
        "text-fields",
        "compute_loss selects the fields of a text model",
        "Trainer",
        text_fields,
        "qwen2_5_vl",
        "3 NVIDIA-NeMo/RL#2957",
        "pixels-unused",
        twin="trainer-answers",
    ),
    Case(
        "images-none-qwen",
        "text tokenised without pictures (images=None), NumPy batch",
        "loop",
        images_none,
        "qwen2_5_vl",
        "4 Blaizzy/mlx-vlm#979",
        "pixels-unused",
        twin="loop-watch",
    ),
    Case(
        "images-none-gemma",
        "text tokenised without pictures (images=None), NumPy batch",
        "loop",
        images_none,
        "gemma3",
        "4 Blaizzy/mlx-vlm#823",
        "pixels-unused",
        ("no-placeholder",),
        "loop-gemma3",
    ),
    Case(
        "types-not-flushed",
        "flush_left of TRL does not move mm_token_type_ids",
        "TRL",
        types_not_flushed,
        "qwen2_5_vl",
        "5 huggingface/trl#5785",
        "token-types-misaligned",
        twin="trl-completion",
    ),
    Case(
        "offsets-not-shifted",
        "assistant spans are looked up without the placeholders' length",
        "TRL",
        offsets_not_shifted,
        "qwen2_5_vl",
        "6 huggingface/transformers#46559",
        "no-labels",
        twin="trl-assistant-only",
    ),
    Case(
        "no-generation-marks",
        "assistant_only_loss with a template that marks nothing",
        "TRL",
        no_generation_marks,
        "qwen2_5_vl",
        "7 Liquid4All/liquid-finetune#37",
        "no-labels",
        twin="trl-assistant-only",
    ),
    Case(
        "completions-cut",
        "max_length ends before the completions",
        "TRL",
        completions_cut,
        "qwen2_5_vl",
        "8 modelscope/ms-swift#5238",
        "answer-truncated",
        ("no-labels",),
        "trl-completion",
    ),
    Case(
        "pad-masked-only",
        "labels are ids but padding: image tokens in the loss",
        "Trainer",
        pad_masked_only,
        "llava",
        "9 NielsRogge/Transformers-Tutorials#511",
        "image-labelled",
        twin="llava",
    ),
    Case(
        "prompt-labelled",
        "labels are ids but padding and image",
        "Trainer",
        prompt_labelled,
        "qwen2_5_vl",
        "10 huggingface/trl#3751",
        "prompt-labelled",
        twin="trainer-answers",
    ),
)
