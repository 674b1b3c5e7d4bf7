"""Stage 1 alignment as a module: `python -m qwen3_vlm.train.stage1_align` does the same as `qwen3-vlm train`."""

import sys
from functools import partial

from qwen3_vlm.cli import run_alone
from qwen3_vlm.commands.train import Train

main = partial(run_alone, Train, "python -m qwen3_vlm.train.stage1_align")

if __name__ == "__main__":
    sys.exit(main())
