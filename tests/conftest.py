"""Fixtures for every room; how hypothesis draws."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from preflight_world import World, copy_world, make_world
from tiny_rows import llava, make_llava, tokenizer

__all__ = ["llava", "make_llava", "tokenizer"]

# No example is timed: a busy machine is no bug. In CI the examples are always the same ones, so that a change is judged
# by what it changes; everywhere else they are drawn anew.
settings.register_profile("ours", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ours")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small run for the preflight, made once."""
    return make_world(tmp_path_factory.mktemp("template"))


@pytest.fixture
def world(template: World, tmp_path: Path) -> World:
    """The same in a folder of its own, to break."""
    return copy_world(template, tmp_path)
