"""Checks of the image block, of the prompt before the caption, and of the ids of special tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eyechart.faults.known_answer import SHORT
from eyechart.faults.rows_shares import SHOWN
from eyechart.faults.table import finding
from eyechart.outside.shown import short
from eyechart.results import Finding
from eyechart.rows import PLACEHOLDER
from qwen3_vlm.build import Prepared
from qwen3_vlm.data.prompt import END, PATCH, START
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight.text import Cases, Row, Tokens

# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_SAME = 1e-3
"""Relative distance below which two embeddings count as one. Rows that transformers adds to a table are drawn around
the mean of all rows with 3e-5 times their spread."""
# size: rows of the table
_ROWS = 1024
"""Number of rows of the embedding table from which the size of a typical embedding is estimated."""


def block_findings(rows: Sequence[Row], prepared: Prepared, vlm: VLM, tokens: Tokens, latents: int) -> list[Finding]:
    """Check the image block: one id for each visual token, at adjacent positions between the delimiters."""
    cases = Cases()
    legacy = prepared.config.prompt.image_block == "legacy"
    (start,), (patch,), (end,) = (
        ([tokens.eos] if legacy and text != PATCH else tokens.ids[text]) for text in (START, PATCH, END)
    )
    step = 2 if legacy else 1
    for row in rows:
        at = [t for t, i in enumerate(row.ids) if i == vlm.patch_id]
        same = [t for t, i in enumerate(row.ids) if i == patch]
        if row.at_limit and at and (at[0] < step or len(row.ids) - at[-1] <= step):
            end_cut = "begins" if at[0] < step else "ends"
            cases.add("image-truncated", row, f"the sequence of {len(row.ids)} tokens {end_cut} inside the image block")
        elif len(at) != latents and len(same) == latents:
            cases.add("token-id-mismatch", row, f"the text has {latents} tokens of id {patch}, none of {vlm.patch_id}")
        elif len(at) != latents:
            cases.add("placeholder-count", row, f"{len(at)} image positions for {latents} visual tokens")
        elif at != list(range(at[0], at[0] + step * latents, step)):
            shown = ", ".join(map(str, at[: 2 * SHOWN])) + (", ..." if len(at) > 2 * SHOWN else "")
            want_step = "adjacent" if step == 1 else f"{step} apart"
            cases.add("placeholder-split", row, f"image positions {shown} are not {want_step}")
        elif at[0] < step or [row.ids[at[0] - step], *row.ids[at[-1] + step : at[-1] + step + 1]] != [start, end]:
            around = tokens.decode(row.ids[max(0, at[0] - 2) : at[0] + 1])
            cases.add("placeholder-split", row, f"the block is not between its two delimiters, it begins {around!r}")
        elif row.block != (at[0] - step, at[-1] + step + 1):
            cases.add("placeholder-split", row, f"the batch marks {row.block} as image block, it is at {at[0] - step}")
    if "image-truncated" in cases.rows:  # do not also report truncated blocks as malformed
        cases.rows = {"image-truncated": cases.rows["image-truncated"]}
    says = {
        "image-truncated": (
            "data.max_seq_len cuts into the image block in {n} of {of} rows",
            "raise data.max_seq_len, and cut captions at their end, never the image; or lower connector.latents",
        ),
        "token-id-mismatch": (
            "the tokenizer and the model disagree on the id of an image position in {n} of {of} rows",
            "use the id of <|image_pad|> from the tokenizer wherever visual tokens are placed",
        ),
        "placeholder-count": (
            "image positions and visual tokens differ in number in {n} of {of} rows",
            "put <|image_pad|> into the prompt once per visual token (connector.latents), between the two delimiters",
        ),
        "placeholder-split": (
            "the image block is not {want} adjacent tokens in {n} of {of} rows",
            "splice the block in as ids: <|vision_start|>, then <|image_pad|> once per latent, then <|vision_end|>",
        ),
    }
    want = prepared.config.image_block_tokens
    return [
        finding(
            code,
            f"{says[code][0].format(n=len(found), of=len(rows), want=want)}; {cases.shown[code]}",
            says[code][1],
            rows=len(found),
            of=len(rows),
            expected_positions=latents,
            expected_block=want,
            first_rows=found[:SHOWN],
        )
        for code, found in cases.rows.items()
    ]


def template_findings(rows: Sequence[Row], prepared: Prepared, tokens: Tokens) -> list[Finding]:
    """Check that the prompt for generating captions is equal to the text before the answer in training."""
    cases = Cases()
    template = prepared.config.prompt.template
    for row in rows:
        start = row.answer_start()
        if start is None or template.replace("{human}", row.raw.human).count(PLACEHOLDER) != 1:
            continue
        alone = [int(i) for i in prepared.inputs.prompts.prompt(row.raw.human).ids_T]
        if row.ids[: len(alone)] != alone[: len(row.ids)] or (start < len(row.ids) and len(alone) != start):
            same = next((t for t, (a, b) in enumerate(zip(alone, row.ids, strict=False)) if a != b), len(alone))
            got = tokens.decode(row.ids[same:start])
            cases.add(
                "template-unstable",
                row,
                f"{len(alone)} tokens for generation, {start} in training; from token {same} on, "
                f"{_or_nothing(tokens.decode(alone[same:]))} for generation and {_or_nothing(got)} in training",
            )
            continue
        before, _, after = template.replace("{human}", row.raw.human).partition(PLACEHOLDER)
        around = (tokens.encode(before), tokens.encode(after))
        got_around = (row.ids[: row.block[0]], row.ids[row.block[1] : start])
        cut = start == len(row.ids)
        if around[0] != got_around[0] or (around[1] != got_around[1] and not cut):
            read = f"{tokens.decode(got_around[0])}{PLACEHOLDER}{tokens.decode(got_around[1])}"
            cases.add(
                "template-unstable", row, f"training uses {short(read, SHORT)}, which differs from prompt.template"
            )
    return [
        finding(
            code,
            f"the prompt that generation uses is not the text before the caption in training, in {len(found)} of "
            f"{len(rows)} rows; {cases.shown[code]}",
            "use one function to build the prompt for training and for generation, so that training's ids start with "
            "the prompt's, token by token",
            rows=len(found),
            of=len(rows),
            example=cases.shown[code],
        )
        for code, found in cases.rows.items()
    ]


def token_findings(prepared: Prepared, vlm: VLM, tokens: Tokens) -> list[Finding]:
    """Check the special tokens.

    Each must have one id, which is the same everywhere and inside the vocabulary, and must differ from EOS.
    """
    legacy = prepared.config.prompt.image_block == "legacy"
    table_KE: Tensor = vlm.llm.model.get_input_embeddings().weight
    used = prepared.inputs.prompts.ids
    found = []
    for text in (PATCH,) if legacy else (START, PATCH, END):
        if len(tokens.ids[text]) != 1:
            found.append(
                finding(
                    "placeholder-split",
                    f"the tokenizer encodes {text} as {len(tokens.ids[text])} ids, but it must be one",
                    "add it to the tokenizer as a special token, or use a Qwen tokenizer, which has it",
                    ids=tokens.ids[text][:8],
                )
            )
    if found:
        return found
    patch, rows = tokens.ids[PATCH][0], len(table_KE)
    model, prompt = "the model takes id {} for", "the prompt is built with id {} for"
    pairs = [(f"{model} an image position", vlm.patch_id, patch), (f"{prompt} an image position", used.patch, patch)]
    pairs += [(f"{model} the end of text", vlm.eos_id, tokens.eos), (f"{prompt} the end of text", used.eos, tokens.eos)]
    if not legacy:
        pairs += [(f"{prompt} the start of an image", used.start, tokens.ids[START][0])]
        pairs += [(f"{prompt} the end of an image", used.end, tokens.ids[END][0])]
    for what, got, wanted in pairs:
        if got != wanted:
            found.append(
                finding(
                    "token-id-mismatch",
                    f"{what.format(got)}, but the tokenizer has {wanted} ({tokens.decode([wanted])})",
                    "take the id from the tokenizer of model.llm (`convert_tokens_to_ids`) instead of a fixed number",
                    used=got,
                    tokenizer=wanted,
                )
            )
    highest = max([patch, tokens.eos, len(tokens.tokenizer) - 1])
    head = vlm.llm.model.get_output_embeddings().weight
    if highest >= min(rows, len(head)):
        found.append(
            finding(
                "token-id-mismatch",
                f"the tokenizer has ids up to {highest}, the language model embeddings for {rows} and outputs for "
                f"{len(head)}: some ids have no row",
                "use the tokenizer that came with the weights of model.llm",
                highest_id=highest,
                embedding_rows=rows,
                output_rows=len(head),
            )
        )
    # The delimiters of the legacy block are EOS by definition.
    return found or ([] if legacy else _delimiters(tokens, table_KE))


@torch.no_grad()
def _delimiters(tokens: Tokens, table_KE: Tensor) -> list[Finding]:
    """Report delimiters of the image block that the language model cannot tell from EOS, or from each other."""
    start_E, end_E, eos_E = (table_KE[i].float() for i in (tokens.ids[START][0], tokens.ids[END][0], tokens.eos))
    found, size = [], float(eos_E.norm()) or 1.0
    distance = {text: float((row_E - eos_E).norm()) / size for text, row_E in ((START, start_E), (END, end_E))}
    alike = [text for text, relative in distance.items() if relative < _SAME]
    if alike:
        found.append(
            finding(
                "special-token-is-eos",
                f"the embedding of {' and '.join(alike)} equals that of end of text, so the frozen language model "
                "reads the image block as the end of a document",
                "set model.llm to a model whose delimiters were trained, as Qwen3's were",
                relative_distance={text: round(value, 6) for text, value in distance.items()},
            )
        )
    some_KE = table_KE[:: max(1, len(table_KE) // _ROWS)].float()
    typical = float(some_KE.norm(dim=1).mean()) or 1.0
    apart = float((start_E - end_E).norm()) / typical
    if apart < _SAME <= float((start_E - eos_E).norm()) / typical:  # delimiters that both equal EOS are named above
        found.append(
            finding(
                "delimiters-alike",
                f"{START} and {END} have the same embedding ({apart:.1g} times a typical one apart), so the language "
                "model cannot tell where an image begins and where it ends; most likely the tokens were added and "
                "never trained",
                "set model.llm to a model whose delimiters were trained, as Qwen3's were, with the tokenizer that "
                "belongs to it",
                relative_distance=apart,
            )
        )
    return found


def _or_nothing(text: str) -> str:
    return short(text, SHORT) if text else "nothing"
