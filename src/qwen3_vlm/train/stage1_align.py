"""Stage 1 alignment as a module: `python -m qwen3_vlm.train.stage1_align` does the same as `qwen3-vlm train`."""

from functools import partial
from typing import Any

from eyechart.process import as_program
from qwen3_vlm.cli import run_alone


def _command() -> Any:
    from qwen3_vlm.commands.train import Train

    return Train


main = partial(run_alone, _command, "python -m qwen3_vlm.train.stage1_align")

if __name__ == "__main__":
    as_program(main, "qwen3_vlm")
