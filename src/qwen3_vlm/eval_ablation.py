"""Check 1 as the runbook calls it: does the loss rise when the picture is taken away?

    python -m qwen3_vlm.eval_ablation --config configs/stage1_align_tiny.yaml --num_samples 128 \
        --checkpoint outputs/stage1_align_tiny/checkpoint_3675.pt

The same as `qwen3-vlm ablate`. Exit code 0 PASS, 1 FAIL, 3 INCONCLUSIVE, 2 bad input.
"""

import sys
from functools import partial

from qwen3_vlm.cli import run_alone
from qwen3_vlm.commands.ablate import Ablate

main = partial(run_alone, Ablate, "python -m qwen3_vlm.eval_ablation")

if __name__ == "__main__":
    sys.exit(main())
