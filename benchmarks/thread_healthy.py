"""Set-ups as the documentation of the stacks has them, with nothing wrong: no error may be reported."""

from __future__ import annotations

from typing import Any

from torch.utils.data import IterableDataset

from batches import Item, picture
from thread_case import Case, nothing
from thread_images import packed
from thread_labels import generation_marked
from thread_models import freeze
from thread_rows import QUESTION, flags, items_of, trl_rows
from thread_stack import ROWS, Job


def watched(job: Job) -> None:
    """A loop with `eyechart.watch`."""
    job.check = "watch"


def checked(job: Job) -> None:
    """A loop with `eyechart.check_batch` on its first batch."""
    job.check = "check_batch"


def shared(job: Job) -> None:
    """Few different pictures, each in several rows."""
    job.rows = flags(ROWS)


def completions(job: Job) -> None:
    """TRL's prompt and completion layout: labels on completions."""
    job.rows = trl_rows(items_of(ROWS, job.seed), "completion")


def lora(job: Job) -> None:
    """LoRA on the language model through TRL's `peft_config`."""
    from peft import LoraConfig

    job.more["peft_config"] = LoraConfig(target_modules=r".*language_model.*\.(q_proj|v_proj)", r=4)


def peft(job: Job) -> None:
    """LoRA on the language model by `get_peft_model`; projector and tower frozen."""
    from peft import LoraConfig, get_peft_model

    job.model = get_peft_model(job.model, LoraConfig(target_modules=r".*language_model.*\.(q_proj|v_proj)", r=4))


def peft_with_projector(job: Job) -> None:
    """The same, with the projector trained in full (`modules_to_save`)."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        target_modules=r".*language_model.*\.(q_proj|v_proj)", r=4, modules_to_save=["multi_modal_projector"]
    )
    job.model = get_peft_model(job.model, config)


def tower_frozen(job: Job) -> None:
    """The whole tower is frozen, connectors included."""
    freeze(job, "visual")


def connector_only(job: Job) -> None:
    """Stage 1 of LLaVA: only the projector is trained."""
    for name, weight in job.model.named_parameters():
        weight.requires_grad_("multi_modal_projector" in name)


def last_blocks(job: Job) -> None:
    """The last block of the tower is trained, the blocks before it are frozen."""
    freeze(job, "visual.patch_embed", "visual.blocks.0.")


def text_rows(job: Job) -> None:
    """Every fourth row is text only."""
    job.rows = [Item((), one.texts) if place % 4 == 3 else one for place, one in enumerate(job.rows)]


def several_images(job: Job) -> None:
    """Two pictures in every second row, and two turns."""
    items = items_of(ROWS, job.seed)
    extra = [Item((*one.images, picture(place, (28, 40))), (*one.texts, QUESTION, one.texts[1]))
             if place % 2 else one for place, one in enumerate(items)]  # fmt: skip
    job.rows = trl_rows(extra)


def left_padded(job: Job) -> None:
    """Padding on the left."""
    made = job.made
    job.collate = lambda items: made.batch(items, padding_side="left")


def checkpointing(job: Job) -> None:
    """Gradient checkpointing as TRL has it by default."""
    job.arguments["gradient_checkpointing"] = True


def accumulation(job: Job) -> None:
    """Gradients of four batches in one step; five epochs over the rows."""
    job.arguments["gradient_accumulation_steps"] = 4


class Stream(IterableDataset[Any]):
    """The rows without indices, again and again."""

    def __init__(self, rows: Any) -> None:
        """Keep the rows."""
        self.rows = rows

    def __iter__(self) -> Any:
        """The rows, endlessly."""
        while True:
            yield from self.rows


def streamed(job: Job) -> None:
    """An iterable data set; accelerate's dispatcher would cut flattened patches as if they were rows."""
    job.rows = Stream(job.rows)
    job.arguments["accelerator_config"] = {"dispatch_batches": False}


HEALTHY = (
    Case("trainer-answers", "Trainer, labels on answers, all weights trained", "Trainer", nothing),
    Case("trl-messages", "SFTTrainer's defaults on images and messages", "TRL", nothing),
    Case("trl-completion", "SFTTrainer on images, prompt and completion", "TRL", completions),
    Case(
        "trl-assistant-only",
        "SFTTrainer, assistant_only_loss, a template with generation marks",
        "TRL",
        generation_marked,
    ),
    Case("trl-lora", "SFTTrainer with peft_config", "TRL", lora),
    Case("trl-several-images", "SFTTrainer, several pictures and turns in a row", "TRL", several_images),
    Case("trl-checkpointing", "SFTTrainer with gradient checkpointing", "TRL", checkpointing),
    Case("trl-gemma3", "SFTTrainer's defaults, Gemma 3", "TRL", nothing, "gemma3"),
    Case("peft-lora", "Trainer, get_peft_model, LoRA in the language model", "Trainer", peft, "llava"),
    Case(
        "peft-projector", "Trainer, LoRA and the projector in modules_to_save", "Trainer", peft_with_projector, "llava"
    ),
    Case("tower-frozen", "Trainer, the whole tower frozen", "Trainer", tower_frozen, "qwen3_vl"),
    Case("connector-only", "Trainer, only the projector trained", "Trainer", connector_only, "llava"),
    Case("last-blocks", "Trainer, the last block of the tower trained", "Trainer", last_blocks),
    Case("text-rows", "Trainer, every fourth row without a picture", "Trainer", text_rows),
    Case("left-padded", "Trainer, padding on the left", "Trainer", left_padded),
    Case("accumulation", "Trainer, gradients of four batches", "Trainer", accumulation),
    Case("streamed", "Trainer, an iterable data set", "Trainer", streamed),
    Case("qwen3-vl", "Trainer, Qwen3-VL", "Trainer", nothing, "qwen3_vl"),
    Case("llava", "Trainer, LLaVA", "Trainer", nothing, "llava"),
    Case("gemma3", "Trainer, Gemma 3", "Trainer", nothing, "gemma3"),
    Case("smolvlm", "Trainer, SmolVLM", "Trainer", nothing, "smolvlm"),
    Case("packed", "Trainer, packed rows without a mask, Gemma 3", "Trainer", packed(mask=False), "gemma3"),
    Case("flags", "Trainer, pictures that several rows share", "Trainer", shared),
    Case("loop-watch", "a plain loop with watch", "loop", watched),
    Case("loop-gemma3", "a plain loop with check_batch, Gemma 3", "loop", checked, "gemma3"),
)
