"""ms-swift: the script that starts it, and the file that `--external_plugins` names, with callbacks by name."""

from __future__ import annotations

from swift.callbacks import callbacks_map

from launched import WATCHING, Now, run_jobs, start
from thread_outcome import Checked

callbacks_map["before"] = lambda args, trainer: start(Checked(watching=WATCHING).of(trainer)).before
callbacks_map["eyechart"] = lambda args, trainer: Now.timed.checked
callbacks_map["after"] = lambda args, trainer: Now.timed.after

if __name__ == "__main__":
    from swift.pipelines import sft_main

    run_jobs(sft_main)
