"""Batches with one fault each, made as the code of public threads made them, and sound batches that resemble them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from batches import ANSWER, QUESTION, SIZES, Item, Made, answer_labels, item, picture, turns

Batch = dict[str, Any]
TEXT = ("input_ids", "attention_mask", "labels", "mm_token_type_ids", "token_type_ids")


@dataclass(frozen=True)
class Sabotage:
    """One fault in a batch."""

    name: str
    code: str
    """The finding that has to come first."""
    make: Callable[[Made], Any]
    thread: str = ""
    """The public thread whose cause it has."""
    family: str = "qwen2_5_vl"


def rows(count: int = 4) -> list[Item]:
    return [item(seed, 1, f"{QUESTION} {seed}", ANSWER) for seed in range(count)]


def healthy(made: Made, **more: Any) -> Batch:
    return made.batch(rows(), **more)


def without(*keys: str) -> Callable[[Made], Batch]:
    return lambda made: {k: v for k, v in healthy(made).items() if k not in keys}


def changed(**changes: Callable[[Batch], Any]) -> Callable[[Made], Batch]:
    """The healthy batch, in which some entries are computed anew."""

    def make(made: Made) -> Batch:
        batch = healthy(made)
        return batch | {key: change(batch) for key, change in changes.items()}

    return make


def cut_to(length: Callable[[Batch, Made], int], labels: str = "answers") -> Callable[[Made], Batch]:
    """All text is cut to a length after the processor has run, as cutoff_len and max_length of some trainers do."""

    def make(made: Made) -> Batch:
        batch = healthy(made, labels=labels)
        most = length(batch, made)
        return batch | {key: batch[key][:, :most] for key in TEXT if key in batch}

    return make


def within_image(batch: Batch, made: Made) -> int:
    return int((batch["input_ids"][0] == made.config.image_token_id).nonzero()[-1])


def within_answer(batch: Batch, made: Made) -> int:
    return int((batch["labels"] != -100).nonzero()[:, 1].min()) + 2


def before_answer(batch: Batch, made: Made) -> int:
    return int((made.batch(rows())["labels"] != -100).nonzero()[:, 1].min())


def other_side(batch: Batch) -> Any:
    """Token types padded on the left, ids on the right (trl#5785)."""
    types, lengths = batch["mm_token_type_ids"], batch["attention_mask"].sum(1)
    return torch.stack([types[row].roll(int(types.shape[1] - lengths[row])) for row in range(len(types))])


def text_only_field(made: Made) -> Batch:
    return {k: v for k, v in healthy(made).items() if k in ("input_ids", "attention_mask", "labels")}


def numpy_without_images(made: Made) -> Batch:
    return {k: v.numpy() for k, v in healthy(made).items() if not k.startswith(("pixel", "image"))}


def without_image_text(made: Made) -> Batch:
    """The text has no place for its image: the rows came without `<image>`."""
    full = healthy(made)
    bare = made.batch([Item((), i.texts) for i in rows()])
    return bare | {k: v for k, v in full.items() if k not in TEXT}


def one_row_without_image_text(made: Made) -> Batch:
    full, some = healthy(made), rows()
    mixed = made.batch([Item((), some[0].texts), *some[1:]])
    return mixed | {k: full[k] for k in full if k not in TEXT}


def one_position_more(made: Made) -> Batch:
    """An image id is inside the answer (verl#3469)."""
    batch = healthy(made)
    place = (batch["labels"][1] != -100).nonzero()[1]
    for key in ("input_ids", "labels"):
        batch[key][1, place] = made.config.image_token_id
    return batch


def three_more_positions(made: Made) -> Batch:
    """Text before the image became image positions: 259 against 256 (Qwen-VL-Series-Finetune#181)."""
    batch = healthy(made)
    start = int((batch["input_ids"][0] == made.config.image_token_id).nonzero()[0])
    batch["input_ids"][0, start - 3 : start] = made.config.image_token_id
    return batch


def other_grid(made: Made) -> Batch:
    """The grid is of another resolution than the text (LlamaFactory#10589)."""
    batch = healthy(made)
    larger = made.batch([Item(tuple(p.resize((40, 40)) for p in i.images), i.texts) for i in rows()])
    return batch | {key: larger[key] for key in ("pixel_values", "image_grid_thw")}


def mask_of_eos(made: Made) -> Batch:
    """Padding is EOS, and labels are masked wherever the id is padding."""
    batch = healthy(made)
    eos = made.tokenizer.eos_token_id
    batch["labels"][batch["labels"] == eos] = -100
    return batch


def image_tokens_in_loss(made: Made) -> Batch:
    """The prompt is masked, but the image is not."""
    batch = healthy(made)
    places = batch["input_ids"] == made.config.image_token_id
    batch["labels"][places] = batch["input_ids"][places]
    return batch


def prompt_in_loss(made: Made) -> Batch:
    """Everything but padding and images has a label."""
    batch = healthy(made, labels="all")
    return batch | {"labels": batch["labels"].masked_fill(batch["input_ids"] == made.config.image_token_id, -100)}


def flat_positions(made: Made) -> Batch:
    batch = healthy(made)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return batch | {"position_ids": positions}


def flat_positions_three_times(made: Made) -> Batch:
    return (batch := flat_positions(made)) | {"position_ids": batch["position_ids"].expand(3, -1, -1)}


def packed(made: Made, mask: bool = True) -> Batch:
    """Two rows in one sequence; the positions start again."""
    parts = [made.batch([row]) for row in rows(2)]
    batch = {k: torch.cat([p[k] for p in parts], dim=1 if k in TEXT else 0) for k in parts[0]}
    lengths = [p["input_ids"].shape[1] for p in parts]
    batch["position_ids"] = torch.cat([torch.arange(n) for n in lengths])[None]
    return batch if mask else {k: v for k, v in batch.items() if k != "attention_mask"}


def one_picture(made: Made) -> Batch:
    """A cache serves the same picture to every row (ms-swift#9605)."""
    shown = picture(0)
    texts = ("a red circle", "a green cross", "blue", "a yellow square")
    return made.batch([Item((shown,), (f"{QUESTION} {i}", text)) for i, text in enumerate(texts)])


def all_shrunk(made: Made) -> Batch:
    """Every picture was shrunk before the processor saw it (unsloth#6129)."""
    items = []
    for index, row in enumerate(rows()):
        height, width = SIZES[index]
        scale = 16 / max(height, width)
        small = (max(8, round(width * scale)), max(8, round(height * scale)))
        items.append(Item((row.images[0].resize(small),), row.texts))
    return made.batch(items)


def beyond_the_limits(made: Made) -> Batch:
    """max_pixels is ignored: images are larger than the processor's own limit (transformers#41955)."""
    large = [Item((picture(i, (96, 96)),), row.texts) for i, row in enumerate(rows())]
    return made.batch(large, images_kwargs={"size": {"shortest_edge": 64, "longest_edge": 96 * 96}})


def other_mean(made: Made) -> Batch:
    """Pixels normalised with the mean and deviation of another tower."""
    return healthy(made, images_kwargs={"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]})


def only_rescaled(made: Made) -> Batch:
    return healthy(made, images_kwargs={"do_normalize": False})


def raw_pixels(made: Made) -> Batch:
    return healthy(made, images_kwargs={"do_normalize": False, "do_rescale": False})


def hidden_images(made: Made) -> Batch:
    batch = healthy(made)
    batch["attention_mask"][batch["input_ids"] == made.config.image_token_id] = 0
    return batch


def mask_on_the_other_side(made: Made) -> Batch:
    batch = healthy(made)
    return batch | {"attention_mask": batch["attention_mask"].flip(1)}


def padding_labelled(made: Made) -> Batch:
    batch = made.batch([item(0, 1, QUESTION, ANSWER), item(1, 1, f"{QUESTION} and what is that? " * 2, ANSWER)])
    batch["labels"][batch["attention_mask"] == 0] = batch["input_ids"][batch["attention_mask"] == 0]
    return batch


def first_tokens_masked(made: Made) -> Batch:
    """The prompt was tokenised alone and is longer than in the whole text."""
    batch = healthy(made)
    for row in range(len(batch["labels"])):
        batch["labels"][row, (batch["labels"][row] != -100).nonzero()[:2]] = -100
    return batch


def shifted(made: Made) -> Batch:
    batch = healthy(made)
    return batch | {"labels": batch["labels"].roll(-1, dims=1)}


def large_id(made: Made) -> Batch:
    batch = healthy(made)
    place = (batch["labels"][0] != -100).nonzero()[0]
    batch["input_ids"][0, place] = batch["labels"][0, place] = 10_000
    return batch


def not_a_number(made: Made) -> Batch:
    batch = healthy(made)
    batch["pixel_values"][0] = float("nan")
    return batch


def black_pictures(made: Made) -> Batch:
    return made.batch([Item((Image.new("RGB", (30, 30)),), i.texts) for i in rows()])


def not_expanded(made: Made) -> Batch:
    """The tokenizer alone made the ids, with one position per image."""
    texts = [made.processor.apply_chat_template(turns(row), tokenize=False) for row in rows()]
    text = dict(made.tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False))
    text["labels"] = text["input_ids"].masked_fill(text["attention_mask"] == 0, -100)
    return {key: value for key, value in healthy(made).items() if key not in TEXT} | text


def cut_on_the_left(made: Made) -> Batch:
    batch = healthy(made)
    first = int((batch["input_ids"][0] == made.config.image_token_id).nonzero()[0]) + 2
    return batch | {key: batch[key][:, first:] for key in TEXT if key in batch}


def end_stripped(made: Made) -> Batch:
    """The texts were stripped of the token that ends a turn."""
    texts = [made.processor.apply_chat_template(turns(row), tokenize=False).rstrip() for row in rows()]
    texts = [text.removesuffix("<|im_end|>") for text in texts]
    batch = dict(made.processor(text=texts, images=[list(r.images) for r in rows()], return_tensors="pt", padding=True))
    return batch | {"labels": answer_labels(batch, made.processor, {ANSWER})}


def only_the_prompt(made: Made) -> Batch:
    answers = healthy(made)["labels"]
    batch = healthy(made, labels="all")
    return batch | {"labels": batch["labels"].masked_fill(answers != -100, -100)}


def one_boundary(made: Made) -> Batch:
    batch = packed(made, mask=False)
    return batch | {"cu_seq_lens_q": torch.tensor([0, batch["input_ids"].shape[1]])}


def padding_attended(made: Made) -> Batch:
    batch = made.batch([item(0), item(1, 1, f"{QUESTION} and what is that thing there?", ANSWER)], padding_side="left")
    return batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}


def images_hidden_as_padding(made: Made) -> Batch:
    """The mask of the pixels is 0 for a whole row."""
    batch = healthy(made)
    batch["pixel_attention_mask"][1] = 0
    return batch


SABOTAGES = [
    Sabotage(
        "pixels dropped by the collator",
        "pixels-unused",
        without("pixel_values", "image_grid_thw"),
        "microsoft/agent-lightning#559",
    ),
    Sabotage("a list of text fields only", "pixels-unused", text_only_field, "NVIDIA-NeMo/RL#2957", "gemma3"),
    Sabotage("images=None, numpy", "pixels-unused", numpy_without_images, "Blaizzy/mlx-vlm#979", "gemma3"),
    Sabotage("pixels None", "pixels-unused", changed(pixel_values=lambda b: None), "prime-rl#2786", "llava"),
    Sabotage("pixels zeroed", "images-degenerate", changed(pixel_values=lambda b: b["pixel_values"] * 0)),
    Sabotage(
        "pixels zeroed, LLaVA", "images-degenerate", changed(pixel_values=lambda b: b["pixel_values"] * 0), "", "llava"
    ),
    Sabotage("black pictures", "images-degenerate", black_pictures, ""),
    Sabotage(
        "token types padded on the other side",
        "token-types-misaligned",
        changed(mm_token_type_ids=other_side),
        "huggingface/trl#5785",
    ),
    Sabotage(
        "token types all text",
        "token-types-misaligned",
        changed(mm_token_type_ids=lambda b: b["mm_token_type_ids"] * 0),
        "",
    ),
    Sabotage(
        "assistant mask all zero",
        "no-labels",
        changed(labels=lambda b: b["labels"] * 0 - 100),
        "huggingface/transformers#46559",
    ),
    Sabotage(
        "template without generation mark",
        "no-labels",
        changed(labels=lambda b: b["labels"] * 0 - 100),
        "Liquid4All/liquid-finetune#37",
        "idefics3",
    ),
    Sabotage(
        "max_length cuts answers, masked prompt", "answer-truncated", cut_to(before_answer), "modelscope/ms-swift#5238"
    ),
    Sabotage("max_length cuts answers, all labelled", "answer-truncated", cut_to(before_answer, "all")),
    Sabotage("max_length cuts within answers", "answer-truncated", cut_to(within_answer), ""),
    Sabotage(
        "image tokens in the loss", "image-labelled", image_tokens_in_loss, "NielsRogge/Transformers-Tutorials#511"
    ),
    Sabotage(
        "image tokens in the loss, LLaVA",
        "image-labelled",
        lambda m: healthy(m, labels="all"),
        "NielsRogge/Transformers-Tutorials#513",
        "llava",
    ),
    Sabotage("prompt in the loss", "prompt-labelled", prompt_in_loss, "huggingface/trl#3751"),
    Sabotage("max_length cuts the image", "image-truncated", cut_to(within_image, "all"), "huggingface/trl#5904"),
    Sabotage("cutoff_len cuts the image", "image-truncated", cut_to(within_image), "hiyouga/LlamaFactory#9313"),
    Sabotage(
        "truncated mid-image, tiles",
        "image-truncated",
        cut_to(within_image, "all"),
        "NVIDIA-NeMo/Automodel#2689",
        "idefics3",
    ),
    Sabotage("truncated mid-image, LLaVA", "image-truncated", cut_to(within_image, "all"), "", "llava"),
    Sabotage("no <image> in the data", "no-placeholder", without_image_text, "2U1/Qwen-VL-Series-Finetune#218"),
    Sabotage("no <image> in one row", "no-placeholder", one_row_without_image_text, ""),
    Sabotage("no <image> in one row, Gemma", "no-placeholder", one_row_without_image_text, "", "gemma3"),
    Sabotage("259 positions for 256", "placeholder-count", three_more_positions, "2U1/Qwen-VL-Series-Finetune#181"),
    Sabotage("image id in an answer", "placeholder-in-caption", one_position_more, "verl-project/verl#3469"),
    Sabotage("grid of another resolution", "placeholder-count", other_grid, "hiyouga/LlamaFactory#10589"),
    Sabotage("one-dimensional positions", "positions-wrong", flat_positions, "NVIDIA-NeMo/Automodel#2172"),
    Sabotage(
        "the same positions three times", "positions-wrong", flat_positions_three_times, "NVIDIA-NeMo/Automodel#3113"
    ),
    Sabotage("positions all zero", "positions-wrong", changed(position_ids=lambda b: b["input_ids"] * 0), "", "llava"),
    Sabotage("packed with a mask of ones", "positions-wrong", packed, "NVIDIA-NeMo/Automodel#2172"),
    Sabotage("packed with a mask of ones, Gemma", "batch-dependent", packed, "axolotl-ai-cloud/axolotl#3817", "gemma3"),
    Sabotage("one picture for all rows", "images-degenerate", one_picture, "modelscope/ms-swift#9605"),
    Sabotage("every picture shrunk", "resolution-differs", all_shrunk, "unslothai/unsloth#6129"),
    Sabotage("limits ignored", "resolution-differs", beyond_the_limits, "huggingface/transformers#41955"),
    Sabotage(
        "another resolution, LLaVA",
        "resolution-differs",
        changed(pixel_values=lambda b: b["pixel_values"][:, :, :14, :14]),
        "",
        "llava",
    ),
    Sabotage("normalised for another tower", "wrong-preprocessing", other_mean, ""),
    Sabotage("normalised for another tower, LLaVA", "wrong-preprocessing", other_mean, "", "llava"),
    Sabotage("not normalised", "wrong-preprocessing", only_rescaled, ""),
    Sabotage("values of 0 to 255", "wrong-preprocessing", raw_pixels, "", "gemma3"),
    Sabotage("padding masks EOS", "eos-unlabelled", mask_of_eos, "huggingface/trl#976"),
    Sabotage("attention hides images", "image-masked", hidden_images, ""),
    Sabotage("mask on the other side", "padding-misaligned", mask_on_the_other_side, ""),
    Sabotage("padding labelled", "padding-labelled", padding_labelled, ""),
    Sabotage("first answer tokens masked", "answer-partly-labelled", first_tokens_masked, ""),
    Sabotage("labels shifted twice", "labels-shifted", shifted, ""),
    Sabotage("id outside the vocabulary", "token-id-mismatch", large_id, ""),
    Sabotage("NaN in the pixels", "non-finite", not_a_number, ""),
    Sabotage(
        "placeholders not expanded", "placeholder-count", not_expanded, "2U1/Qwen-VL-Series-Finetune#218", "llava"
    ),
    Sabotage(
        "patches cut as tokens",
        "placeholder-count",
        changed(pixel_values=lambda b: b["pixel_values"][:-4]),
        "NVIDIA-NeMo/Automodel#3531",
    ),
    Sabotage("cut on the left, in the image", "image-truncated", cut_on_the_left),
    Sabotage("end of the turn stripped", "eos-unlabelled", end_stripped),
    Sabotage("labels of other rows", "labels-shifted", changed(labels=lambda b: b["labels"].roll(1, 0))),
    Sabotage("only the prompt labelled", "no-labels", only_the_prompt),
    Sabotage(
        "one image fewer", "placeholder-count", changed(pixel_values=lambda b: b["pixel_values"][:-1]), "", "gemma3"
    ),
    Sabotage("pixel mask of 0", "placeholder-count", images_hidden_as_padding, "", "idefics3"),
    Sabotage(
        "normalised twice",
        "wrong-preprocessing",
        changed(pixel_values=lambda b: b["pixel_values"] * 2 - 1),
        "",
        "gemma3",
    ),
    Sabotage(
        "token types too short",
        "token-types-misaligned",
        changed(mm_token_type_ids=lambda b: b["mm_token_type_ids"][:, :-3]),
        "NVIDIA-NeMo/Megatron-Bridge#5215",
    ),
    Sabotage("one boundary for two samples", "batch-dependent", one_boundary, "", "gemma3"),
    Sabotage("padding on the left attended", "padding-misaligned", padding_attended, "NVIDIA-NeMo/Automodel#3704"),
]


HEALTHY: dict[str, Callable[[Made], Batch]] = {
    "answers labelled": healthy,
    "labels absent, as in evaluation": lambda made: healthy(made, labels="none"),
    "padded on the left": lambda made: healthy(made, padding_side="left"),
    "text-only rows and several images": lambda made: made.batch(
        [item(1), item(2, 0), item(3, 2, QUESTION, ANSWER, "And now?", ANSWER), item(4, 3)]
    ),
    "no image at all": lambda made: made.batch([item(1, 0), item(2, 0)]),
    "one row": lambda made: made.batch([item(6)]),
    "rows padded to a multiple of 64": lambda made: made.batch(rows(), pad_to_multiple_of=64),
    "two rows about one picture": lambda made: made.batch(
        [item(1), Item(item(1).images, ("And what is that?", ANSWER)), item(2)]
    ),
    "numpy": lambda made: {k: v.numpy() for k, v in healthy(made).items()},
    "half precision": lambda made: {k: v.bfloat16() if v.is_floating_point() else v for k, v in healthy(made).items()},
    "a white page and a dark one": lambda made: made.batch(
        [Item((Image.new("RGB", (32, 32), "white"),), (QUESTION, ANSWER)), item(2), item(3)]
    ),
}


def own_positions(made: Made) -> Batch:
    """The positions that Qwen2.5-VL computes, by the model's own code."""
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    batch = made.batch([item(1), item(2, 0), item(3, 2, QUESTION, ANSWER, "And now?", ANSWER)])
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    # The method only reads its config; no weights are needed.
    model = torch.nn.Module()
    model.config = made.config
    model.get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids.__get__(model)
    positions, _ = Qwen2_5_VLModel.get_rope_index(model, **{name: batch[name] for name in names})
    return batch | {"position_ids": positions}


def counted(made: Made) -> Batch:
    batch = healthy(made)
    return batch | {"position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)}


def other_padding(made: Made) -> Batch:
    """Padding is an id that the tokenizer does not name."""
    batch = made.batch([item(1), item(2, 1, f"{QUESTION} and more", ANSWER)])
    batch["input_ids"][batch["attention_mask"] == 0] = 0
    return batch


def augmented(made: Made) -> Batch:
    """Pixels with noise added after the processor, within their range."""
    batch = healthy(made)
    noise = torch.rand(batch["pixel_values"].shape, generator=torch.Generator().manual_seed(0)) / 10
    return batch | {"pixel_values": batch["pixel_values"] * 0.9 + noise - 0.05}


def dark(made: Made) -> Batch:
    shown = [Image.fromarray((torch.rand(30, 30, 3) * 40).byte().numpy()) for _ in range(3)]
    return made.batch([Item((one,), (f"{QUESTION} {i}", ANSWER)) for i, one in enumerate(shown)])


def last_turn_labelled(made: Made) -> Batch:
    """Only the last answer has labels, as with mask_history."""
    batch = made.batch([item(seed, 1, QUESTION, ANSWER, "And now?", ANSWER) for seed in range(3)])
    for row in range(3):
        places = (batch["labels"][row] != -100).nonzero()[:, 0]
        batch["labels"][row, places[: len(places) // 2]] = -100
    return batch


def of_one_size(made: Made) -> Batch:
    return made.batch([Item((picture(i, (20, 16)),), row.texts) for i, row in enumerate(rows())])


def prompts_alone(made: Made) -> Batch:
    """Prompts that end where the answer begins, padded on the left."""
    texts = [
        made.processor.apply_chat_template(turns(row)[:1], tokenize=False, add_generation_prompt=True) for row in rows()
    ]
    images = [list(row.images) for row in rows()]
    return dict(made.processor(text=texts, images=images, return_tensors="pt", padding=True, padding_side="left"))


LOOK_ALIKES: list[tuple[str, str, Callable[[Made], Batch]]] = [
    ("positions of the model itself", "qwen2_5_vl", own_positions),
    ("counted positions", "gemma3", counted),
    ("packed without a mask", "gemma3", lambda made: packed(made, mask=False)),
    ("padding of another id", "gemma3", other_padding),
    ("augmented pixels", "qwen2_5_vl", augmented),
    ("augmented pixels", "gemma3", augmented),
    ("dark pictures", "qwen2_5_vl", dark),
    ("only the last answer labelled", "qwen2_5_vl", last_turn_labelled),
    ("small pictures of one size", "qwen2_5_vl", of_one_size),
    ("prompts for generation", "qwen2_5_vl", prompts_alone),
]
"""Sound batches that resemble a fault, with their architecture."""
