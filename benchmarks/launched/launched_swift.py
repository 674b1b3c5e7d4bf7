"""ms-swift: the script that starts it, and the file that `--external_plugins` names, with callbacks by name."""

from __future__ import annotations

from swift.callbacks import callbacks_map

from launched import WATCHING, Now, run_jobs, start
from thread_outcome import Checked


class Documented(Checked):
    """As docs/training.md has it: `callbacks_map["eyechart"] = eyechart.Callback`."""

    def __init__(self, *given: object) -> None:
        """Take what ms-swift gives."""
        super().__init__(*given, watching=WATCHING)
        Now.timed.checked = Now.timed.after.checked = self


callbacks_map["before"] = lambda args, trainer: start(None).before
callbacks_map["eyechart"] = Documented
callbacks_map["after"] = lambda args, trainer: Now.timed.after

if __name__ == "__main__":
    from swift.pipelines import sft_main

    run_jobs(sft_main)
