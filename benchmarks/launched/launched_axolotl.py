"""axolotl: the script that starts it, and the plugin that adds callbacks: `plugins: [launched_axolotl.Plugin]`."""

from __future__ import annotations

import sys
from typing import Any

from axolotl.integrations.base import BasePlugin

from launched import WATCHING, run_jobs, start
from thread_outcome import Checked


class Plugin(BasePlugin):
    """The plugin of docs/training.md, with clocks around the callback."""

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        """Return the callbacks."""
        timed = start(Checked(watching=WATCHING))
        assert timed.checked is not None
        return [timed.before, timed.checked.of(trainer), timed.after]


def train(arguments: list[str]) -> None:
    """Train as `python -m axolotl.cli.train FILE` does."""
    from axolotl.cli.train import do_cli

    sys.argv = ["axolotl.cli.train", *arguments]
    do_cli(arguments[0])


if __name__ == "__main__":
    run_jobs(train)
