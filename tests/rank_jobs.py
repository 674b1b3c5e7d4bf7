"""Training with several gloo processes, forked from one that has PyTorch loaded: seconds instead of a minute.

    python tests/rank_jobs.py '[{"name": "two", "ranks": 2, "arguments": ["--config", "run.yaml"]}]' FOLDER

Each process gets the environment that torchrun sets. Writes FOLDER/<name>.<rank>.{out,err}, prints exit codes by name.
A job's `trouble` is what happens to it: `sigterm` reaches rank 1 in its second update, `kill` too, `nan` is
what rank 1 then sees in its features.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qwen3_vlm.cli import main as cli
from qwen3_vlm.eval_ablation import main as ablate
from qwen3_vlm.train import loop
from qwen3_vlm.train.stage1_align import main


def trouble_rank_1(kind: str) -> None:
    update, calls = loop.update, []

    def troubled(vlm: Any, optimizer: Any, batches: Any, *rest: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 and kind == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        if len(calls) == 2 and kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if len(calls) == 2 and kind == "nan":
            batches = [replace(b, features_BPV=b.features_BPV * float("nan")) for b in batches]
        return update(vlm, optimizer, batches, *rest, **named)

    loop.update = troubled  # type: ignore[assignment]


def train_as_rank(job: dict[str, Any], folder: Path) -> int:
    rank = int(os.environ["RANK"])
    for stream, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{job['name']}.{rank}.{kind}", os.O_WRONLY | os.O_CREAT), stream)
    if rank == 1 and "trouble" in job:
        trouble_rank_1(job["trouble"])
    code = {"train": main, "ablate": ablate, "trial": trial}[job.get("entry", "train")](job["arguments"])
    sys.stdout.flush()
    return code


def trial(arguments: list[str]) -> int:
    return cli(["trial", *arguments])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run(job: dict[str, Any], folder: Path) -> list[int]:
    port, pids = free_port(), []
    for rank in range(job["ranks"]):
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
                os.environ |= {key: str(job["ranks"]) for key in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
                code = train_as_rank(job, folder)
            finally:
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


if __name__ == "__main__":
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)  # a process with a pool of threads is not safe to fork
    torch.optim.AdamW([torch.zeros(1)])  # the first optimizer of a process imports for seconds
    print(json.dumps({job["name"]: run(job, Path(sys.argv[2])) for job in json.loads(sys.argv[1])}))
