"""Access to the model hub after one short check, so that without a network a missing model is reported in seconds.

By default, transformers retries each file of each model with increasing pauses. On a machine without a name server, the
four requests at the start of a run took 48 s, with a warning for every retry, before the first error.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from huggingface_hub import constants, get_session

from eyechart.outside import bounds
from eyechart.outside.regular import refuse_odd_folder

_PATIENCE = 4.0
"""Seconds within which the hub must answer one request, including the name look-up."""
_REMEMBERED = 60.0
"""Seconds for which a failed check is cached: a run first requests several files, and a network may come back later."""


@contextmanager
def hub_bounded(name: str) -> Iterator[None]:
    """Inside the block, the model `name` is loaded from its folder, the local cache, or the hub if the hub answers.

    If the hub does not answer, only the cache is used. If it answers, downloads have their usual time limits.

    Raises:
        UnreadableError: a file of the folder is a named pipe or a device, or a JSON file of it is too large.
    """
    if name != ".":  # callers that only ask the hub
        refuse_odd_folder(name, bounds.JSON_BYTES)
    before = constants.HF_HUB_OFFLINE
    if not (before or Path(name).is_dir() or _answers(constants.ENDPOINT, int(time.monotonic() / _REMEMBERED))):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


class HubState(StrEnum):
    """The reason why the hub could not provide a model, worded as part of a sentence."""

    FORBIDDEN = "HF_HUB_OFFLINE forbids access to the hub"
    SILENT = "the hub cannot be reached"
    REFUSES = "the hub denies access to it"


def hub_state() -> HubState:
    """Return the reason why the hub could not provide a model."""
    if constants.HF_HUB_OFFLINE:
        return HubState.FORBIDDEN
    if not _answers(constants.ENDPOINT, int(time.monotonic() / _REMEMBERED)):
        return HubState.SILENT
    return HubState.REFUSES


@functools.lru_cache(maxsize=1)
def _answers(endpoint: str, now: int) -> bool:
    """Return whether the hub gives any response; `now` is only a key of the cache, so that results expire."""
    heard = threading.Event()

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=_PATIENCE)
        except Exception:  # noqa: BLE001 - a proxy, a certificate, a name server: in all these cases the hub is unavailable
            return
        heard.set()

    # The request runs in a separate thread, because a name look-up has no time limit and may take a minute.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return heard.is_set()


def explain_absence(name: str, setting: str, error: Exception) -> str:
    """Return one line about a backbone that cannot be loaded: what is missing and how to get it."""
    first = first_line(error)
    if "flash" in first.lower():  # transformers has no exception class for a missing attention implementation
        attention = "model.attention" if setting.startswith("model.") else "--attention"
        return f"{attention}: flash_attention_2 cannot be used here ({first}); set {attention} to sdpa"
    looks_local = Path(name).is_dir() or name.startswith((".", "/")) or name.count("/") != 1
    if looks_local:
        there = f"is not a model folder in save_pretrained layout ({first})"
        state = there if Path(name).exists() else "does not exist"
        return f"{setting}: the folder {name} {state}; run from the repository root, or name a model folder"
    state = hub_state()
    if state is HubState.REFUSES:
        return f"{setting}: {name} is neither a folder here nor in the local hub cache, and {state} ({first})"
    return (
        f"{setting}: {name} is neither a folder here nor in the local hub cache, and {state}; on a machine with "
        f"network run `hf download {name}`, then copy the cache here (HF_HOME) or point {setting} to the folder"
    )


def unreadable(name: str, setting: str, wanted: str, error: Exception) -> str:
    """Return one line about a backbone whose files exist but cannot be used."""
    return (
        f"{setting}: {name} does not contain a usable {wanted} ({first_line(error)[:200]}); is it the right model, and "
        "are its files complete? Copy or download it again"
    )


def first_line(error: Exception) -> str:
    """Return the first non-empty line of an error's message; if there is none, the type of the error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
