"""Finds the token ids that a chat template writes before and after an answer, by rendering a short conversation.

A conversation of two requests and two answers is rendered several times, with different words in one of its texts. The
longest common prefix of these renderings ends directly before that text. This is repeated with different words in an
earlier text, which gives several such prefixes. Their longest common suffix is what the template itself writes before
the text. With this method, no list of known templates is needed, and the ids are those that the tokenizer produces in
this context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Ids = tuple[int, ...]

_WORDS = ("zebra", "Quite 5", "(no) it is")
"""The texts that are tried in a turn; they begin and end with different characters."""


@dataclass(frozen=True)
class Turns:
    """The token ids that a chat template writes before and after an answer."""

    openings: tuple[Ids, ...]
    """The ids directly before the first answer and before later answers, the longest sequence first; never empty."""
    end_id: int | None
    """The id of the special token that ends an answer; None if the template writes no such token."""
    next_turn: Ids
    """The ids between an answer and the next request, which end the answer if `end_id` is None; may be empty."""


def learn_turns(processor: Any) -> Turns | None:
    """Find what the chat template writes before and after an answer; return None without a template or a marker.

    Args:
        processor: a processor or a tokenizer of the transformers library.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    render = _renderer(processor, tokenizer)
    if render is None:
        return None

    def ids(*texts: str) -> Ids:
        return tuple(tokenizer(render(texts), add_special_tokens=False)["input_ids"])

    before_first = [_common([ids(q, a, "Why?", "ok") for a in _WORDS]) for q in _WORDS]
    before_second = [_common([ids("Why?", "ok", q, a) for a in _WORDS]) for q in _WORDS]
    before_request = [_common([ids("Why?", a, q, "ok") for q in _WORDS]) for a in _WORDS]
    after = _common_end([ids("Why?", "ok", "And?", a) for a in _WORDS])
    prompt = _generation_prompt(processor, tokenizer)
    befores = (_common_end(found) for found in (before_first, before_second))
    openings = {_trimmed(_opening(before, prompt), tokenizer) for before in befores} - {()}
    if not openings:
        return None
    special = special_ids(tokenizer)
    end_id = after[0] if after and after[0] in special else None
    next_turn = _trimmed(_common_end(before_request), tokenizer)
    return Turns(tuple(sorted(openings, key=len, reverse=True)), end_id, next_turn)


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of the special tokens; the set is empty if the tokenizer does not list them."""
    named = {int(token) for token in getattr(tokenizer, "all_special_ids", None) or ()}
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return named | {int(token) for token, content in added.items() if getattr(content, "special", False)}


def _renderer(processor: Any, tokenizer: Any) -> Any:
    """Return a function that renders alternating requests and answers; None if no template leaves them unchanged."""
    for owner in (processor, tokenizer):
        if not getattr(owner, "chat_template", None):
            continue
        for parts in (True, False):

            def render(texts: Sequence[str], owner: Any = owner, parts: bool = parts) -> str:
                turns = _conversation(texts, parts)
                return str(owner.apply_chat_template(turns, tokenize=False, add_generation_prompt=False))

            if _keeps(render):
                return render
    return None


def _conversation(texts: Sequence[str], parts: bool) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [
        {"role": roles[place % 2], "content": [{"type": "text", "text": text}] if parts else text}
        for place, text in enumerate(texts)
    ]


def _keeps(render: Any) -> bool:
    """Return whether a template writes all texts of a conversation unchanged and in their order."""
    texts = ("Why zebra?", "ok", "And lion?", "(no)")
    try:
        written = render(texts)
    except Exception:  # noqa: BLE001 - a template is a program and may raise anything
        return False
    places = [written.find(text) for text in texts]
    return -1 not in places and places == sorted(places) and "'type'" not in written


def _generation_prompt(processor: Any, tokenizer: Any) -> Ids:
    """Return the token ids that the template adds with `add_generation_prompt=True`; empty if it adds none."""
    for owner in (processor, tokenizer):
        if not getattr(owner, "chat_template", None):
            continue
        for parts in (True, False):
            turns = _conversation(("Why zebra?",), parts)
            try:
                without, prompt = (
                    owner.apply_chat_template(turns, tokenize=False, add_generation_prompt=asked)
                    for asked in (False, True)
                )
            except Exception:  # noqa: BLE001 - a template may raise anything, as above
                continue
            ids = [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (without, prompt)]
            return ids[1][len(_common(ids)) :]
    return ()


def _opening(before: Ids, prompt: Ids) -> Ids:
    """Return the generation prompt if the ids before an answer end with it, otherwise all ids before the answer.

    The generation prompt is preferred, because the ids before it belong to the end of the request and differ between
    kinds of turns.
    """
    return prompt if prompt and before[-len(prompt) :] == prompt else before


def _trimmed(ids: Ids, tokenizer: Any) -> Ids:
    """Remove tokens that consist only of spaces from the start and the end.

    The neighbouring word decides whether a space becomes a separate token.
    """
    kept = list(ids)
    while kept and not tokenizer.decode([kept[-1]]).strip(" "):
        kept.pop()
    while kept and not tokenizer.decode([kept[0]]).strip(" "):
        kept.pop(0)
    return tuple(kept)


def _common(several: Sequence[Ids]) -> Ids:
    """Return the longest common prefix of several sequences of ids."""
    length = 0
    while all(len(ids) > length for ids in several) and len({ids[length] for ids in several}) == 1:
        length += 1
    return several[0][:length]


def _common_end(several: Sequence[Ids]) -> Ids:
    """Return the longest common suffix of several sequences of ids."""
    return _common([ids[::-1] for ids in several])[::-1]
