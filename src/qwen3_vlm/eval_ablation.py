"""Check 1 under the name in the runbook: tests whether the loss rises if the picture is removed.

    python -m qwen3_vlm.eval_ablation --config configs/stage1_align_tiny.yaml --num_samples 128 \
        --checkpoint outputs/stage1_align_tiny/checkpoint_3675.pt

It does the same as `qwen3-vlm ablate`. The exit code is 0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE, 2 for bad input.
"""

from functools import partial
from typing import Any

from eyechart.process import as_program
from qwen3_vlm.cli import run_alone


def _command() -> Any:
    from qwen3_vlm.commands.ablate import Ablate

    return Ablate


main = partial(run_alone, _command, "python -m qwen3_vlm.eval_ablation")

if __name__ == "__main__":
    as_program(main, "qwen3_vlm")
