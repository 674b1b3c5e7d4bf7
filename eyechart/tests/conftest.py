"""Fixtures for every room; how hypothesis draws."""

from __future__ import annotations

import os

from hypothesis import settings

from tiny_rows import llava, make_llava, tokenizer

__all__ = ["llava", "make_llava", "tokenizer"]

# No example is timed: a busy machine is no bug. In CI the examples are always the same ones, so that a change is judged
# by what it changes; everywhere else they are drawn anew.
settings.register_profile("ours", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ours")
