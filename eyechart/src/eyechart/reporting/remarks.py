"""Writes each remark in the results as a sentence, by the remark's code.

A remark states how a condition (a replacement of the picture) or the whole score was made, or why a condition or
measure was left out.
"""

from __future__ import annotations

from typing import Any

from eyechart.results import Ablation, Remark, RemarkCode

_SENTENCES: dict[RemarkCode, str] = {
    "donors-from-all-samples": "The runbook takes the wrong image from the same batch; here it comes from any scored "
    "sample with another image and another caption, {derangements} different ones per caption, so the figure does not "
    "depend on the batch size.",
    "noise-of-scalar-moments": "Mean and standard deviation are one number each, over the visual tokens of all scored "
    "images; the noise is drawn separately for every sample.",
    "slot-of-another-image": "Every slot comes from a different image, never from the caption's own; the images are "
    "drawn again for every sample.",
    "slots-share-images": "There are {others} other images for {slots} slots, so some provide more than one slot.",
    "pixels-left-in-place": "{height}x{width} pixels do not divide evenly into {grid}x{grid} tiles: the remainder, "
    "{rows} pixels high at the bottom and {columns} pixels wide on the right, stays in place.",
    "mean-has-seen-scored-images": "--train_data and --data share images: {shared} of the {images} images averaged for "
    "mean-token are also scored; use rows that are not scored.",
    "mean-of-the-scored-file": "--train_data and --data are one file: {shared} of the {images} images averaged for "
    "mean-token are also scored; use rows that are not scored.",
    "no-mean": "No mean of training images is available.",
    "mean-needs-train-data": "It needs --train_data: a file of rows whose images are averaged.",
    "mean-of-several-depths": "This model takes visual tokens at several depths, for which no mean is defined.",
    "no-blind-prompt": "No trained blind prompt is available.",
    "blind-not-trained-here": "It needs a constant prompt trained with the model, which only the qwen3-vlm trainer "
    "makes.",
    "donors-need-tower-features": "Donors by similarity need the features of the qwen3-vlm vision tower; matching "
    "uses random donors.",
    "no-pixels": "The pixels of the pictures are not available, so they cannot be changed.",
    "slot-mix-of-one-image": "All scored samples show one image, so no other image can provide a slot.",
    "image-alone-in-prompt": "A prompt contains only the image, and the scorer defines no token (Vocabulary.begin_id) "
    "that could precede the caption instead.",
    "self-tests-passed": "These self-tests passed before scoring: the model's own features, put back, give its own "
    "loss; features set to NaN, at each depth alone, change every loss; with zeroed features, pixels do not affect any "
    "loss; features of other images in between change no loss; no label depends on the tokens after it.",
    "own-chat-template": "Each row's text is formatted with the model's own chat template.",
    "no-chat-template": "The processor has no chat template: the prompt is the image, the row's text and a line break.",
    "labels-to-template-end": "The tokens of the caption and {end}, which the chat template writes after an answer, "
    "are labelled.",
    "labels-to-eos": "The tokens of the caption and {end}, the EOS token, are labelled.",
    "images-resized": "Every image is resized to {width}x{height} pixels before the model's own processor reads it, "
    "which gives {tokens} visual tokens per image.",
    "images-resized-untiled": "Every image is resized to {width}x{height} pixels before the model's own processor "
    "reads it, with tiling switched off, which gives {tokens} visual tokens per image.",
    "attention-both-ways-in-prompt": "Attention is bidirectional within the prompt, as in the model's training, and "
    "causal within captions.",
    "writing-failed": "No captions were written: `write` raised {error}: {message}",
    "door-encoder-outputs": "Image features are replaced by the argument mm_encoder_outputs of the forward pass.",
    "door-image-features": "Image features are replaced in get_image_features, while the model's forward pass runs.",
    "door-pixels": "Image features of this model cannot be replaced, so it gets other pixels: `shuffled` shows another "
    "sample's pixels, `zero` and `noise` are pictures and not visual tokens.",
    "other-door-failed": "Another way to replace image features was tried and not used: {reason}.",
    "self-tests-of-pixels": "Passed before scoring: other images in between change no loss; no label depends on the "
    "tokens after it.",
    "answers-only": "Only answer tokens are scored, although the trainer also labels {other_labels} other tokens.",
    "answers-by-labels": "No chat template marks the answers, so all labelled tokens but image positions are scored, "
    "prompts among them if they are labelled; pass processor= to find the answers.",
    "text-only-rows": "Rows without image positions are not scored: {rows}.",
    "donors-resampled": "Of {donors} wrong pictures, {resampled} have another grid of visual tokens than the own "
    "picture, and their tokens are taken from the nearest places.",
    "unequal-visual-tokens": "The images have different numbers of visual tokens, and it needs equal numbers.",
    "mean-of-scored-images": "The mean is over the visual tokens of the scored images themselves.",
    "needs-rows": "A batch of a collator has no pictures or texts to change; pass rows and processor= instead.",
    "not-for-pixels": "It needs visual tokens, and this model gets other pixels.",
    "probes-failed": "The tests of what reaches the model were not completed: they raised {error}: {message}",
}


def sentence(remark: Remark) -> str:
    """Return the sentence for one remark."""
    figures: dict[str, Any] = remark.figures
    return _SENTENCES[remark.code].format(**figures)


def made(ablation: Ablation) -> list[tuple[str, str]]:
    """Return the remarks, and then the scorer's own notes, as pairs of subject and sentence."""
    remarks = [(r.about, f"{'Left out. ' if r.left_out else ''}{sentence(r)}") for r in ablation.remarks]
    return [*remarks, *ablation.notes.items()]
