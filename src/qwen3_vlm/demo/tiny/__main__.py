"""Make tiny backbones: a SigLIP tower and a Qwen3 that two CPU cores can train a connector for.

    python -m qwen3_vlm.demo.tiny
    python -m qwen3_vlm.demo.tiny --data rows.json --image-root pictures --output outputs/backbones

Without --data it remakes assets/tiny from scenes that no data set contains and from the 1,500 training digits (about
ten minutes on two idle cores). With --data it makes backbones for any file in LLaVA-Pretrain's layout from the captions
of its training rows, and writes a config that is ready to run. Its max_seq_len truncates no row of up to 2,048 tokens,
the number of positions of the language model. Longer rows are counted; a run truncates them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from eyechart.exits import guarded
from eyechart.process import as_program
from qwen3_vlm.arguments import parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, make the backbones, and return the exit code."""
    typed = list(sys.argv[1:] if arguments is None else arguments)

    def run() -> int:
        # Imported here, because signals are only handled once a command has begun, and PyTorch takes seconds to load.
        from transformers.utils.logging import disable_progress_bar

        from eyechart.printing import results_are_in_files
        from qwen3_vlm.demo.tiny.maker import Options, make

        options, unknown = parsed(Options, "python -m qwen3_vlm.demo.tiny", typed, __doc__)
        if unknown:
            raise ValueError(f"unknown options: {' '.join(unknown)}; `python -m qwen3_vlm.demo.tiny --help` lists them")
        disable_progress_bar()  # transformers would show a bar for a file of one megabyte
        make(options)
        results_are_in_files()
        return 0

    return guarded(run, "qwen3_vlm")


if __name__ == "__main__":
    as_program(main, "qwen3_vlm")
