"""Trainings of `threads.py` in stacks that need an environment of their own: LLaMA-Factory, ms-swift and axolotl.

A `Launch` is written to files as a user of the stack has them (pictures, rows in the stack's layout, a config), and
started by the stack's command in the environment that `stack_environments.py` made. `launched.py`, which the stack
loads through its way in for callbacks, adds eyechart and writes what happened.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from batches import Item
from stack_environments import ENVIRONMENTS, python_of
from thread_checkpoints import checkpoint
from thread_outcome import Outcome
from thread_rows import items_of

STEPS, ROWS, BATCH = 20, 40, 4
LAUNCHED = tuple(ENVIRONMENTS)
"""Stacks that are launched."""
_HERE = Path(__file__).resolve().parent / "launched"
"""What is loaded inside a stack."""
_PATIENCE = 1500.0
"""Seconds after which the launched trainings of a case are ended."""


@dataclass
class Launch:
    """One training before it is launched."""

    stack: str
    checkpoint: Path
    folder: Path
    """Pictures, rows, config, log and outputs are written here."""
    seed: int
    rows: list[Item]
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the stack that differ from those of its documentation's example."""
    patch: str = ""
    """The name of a function of `launched_patches.py` that puts the cause into the stack."""


def launch_of(stack: str, family: str, seed: int, root: Path, name: str) -> Launch:
    """The healthy training of a stack, as its documentation has it."""
    made = checkpoint(root / "models", family, seed)
    return Launch(stack, made, root / "launched" / f"{name}-{seed}", seed, items_of(ROWS, seed, scale=2))


def launch(launches: Sequence[Launch]) -> list[Outcome]:
    """Write the files of trainings of one stack, train in one process of its environment, and read the outcomes."""
    first, jobs = launches[0], []
    for one in launches:
        one.folder.mkdir(parents=True, exist_ok=True)
        (one.folder / "outcome.json").unlink(missing_ok=True)
        arguments = _COMMANDS[one.stack](one)
        folder = one.folder.resolve()
        outcome = str(folder / "outcome.json")
        jobs.append({"folder": str(folder), "arguments": arguments, "outcome": outcome, "patch": one.patch})
    plan, log = first.folder / "plan.json", first.folder / "log.txt"
    plan.write_text(json.dumps(jobs), encoding="utf-8")
    home = str((first.folder / "home").resolve())
    environment = {
        **os.environ,
        "PYTHONPATH": str(_HERE),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": home,
        "MODELSCOPE_CACHE": home,
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [python_of(first.stack), _HERE / f"launched_{_SCRIPTS[first.stack]}.py", plan.resolve()]
    with log.open("w", encoding="utf-8") as file:
        try:
            code = subprocess.run(command, cwd=first.folder, env=environment, stdout=file, stderr=subprocess.STDOUT,
                                  timeout=_PATIENCE, check=False).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = -1
    return [_read(one.folder / "outcome.json", f"exit {code}, see {log}") for one in launches]


def _read(result: Path, otherwise: str) -> Outcome:
    if not result.is_file():
        return Outcome(error=f"benchmark: {otherwise}", broken=True)
    outcome = Outcome(**json.loads(result.read_text(encoding="utf-8")))
    outcome.findings = [(code, severity) for code, severity in outcome.findings]
    return outcome


def _pictures(one: Launch) -> list[list[str]]:
    """Write the pictures of all rows, and return their paths."""
    folder = (one.folder / "pictures").resolve()
    folder.mkdir(exist_ok=True)
    paths = []
    for row, item in enumerate(one.rows):
        paths.append([str(folder / f"{row}-{place}.png") for place in range(len(item.images))])
        for path, image in zip(paths[-1], item.images, strict=True):
            image.save(path)
    return paths


def _turns(item: Item, mark: str) -> list[dict[str, str]]:
    """Messages with one mark for each picture in front of the first request."""
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(item.texts)]
    turns[0]["content"] = mark * len(item.images) + turns[0]["content"]
    return turns


def _llamafactory(one: Launch) -> list[str]:
    """`data/mllm_demo.json` and `examples/train_full/qwen3vl_full_sft.yaml` of LLaMA-Factory, for a CPU."""
    rows = [{"messages": _turns(item, "<image>"), "images": paths}
            for item, paths in zip(one.rows, _pictures(one), strict=True)]  # fmt: skip
    (one.folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    about = {
        "file_name": "rows.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": tags,
    }
    (one.folder / "dataset_info.json").write_text(json.dumps({"rows": about}), encoding="utf-8")
    config = {
        "model_name_or_path": str(one.checkpoint.resolve()),
        "image_max_pixels": 262144,
        "video_max_pixels": 16384,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "freeze_vision_tower": True,
        "freeze_multi_modal_projector": True,
        "freeze_language_model": False,
        "dataset_dir": ".",
        "dataset": "rows",
        "template": "qwen3_vl_nothink",
        "cutoff_len": 2048,
        "output_dir": "saves",
        "logging_steps": 1,
        "save_strategy": "no",
        "overwrite_output_dir": True,
        "report_to": "none",
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1.0e-3,
        "max_steps": STEPS,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "use_cpu": True,
        "seed": one.seed,
    }
    return [_config(one, config)]


def _swift(one: Launch) -> list[str]:
    """`examples/train/multimodal/ocr.sh` of ms-swift, for a CPU."""
    lines = [json.dumps({"messages": _turns(item, "<image>"), "images": paths})
             for item, paths in zip(one.rows, _pictures(one), strict=True)]  # fmt: skip
    (one.folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = {
        "model": one.checkpoint.resolve(),
        "model_type": "qwen2_5_vl",
        "template": "qwen2_5_vl",
        "dataset": "rows.jsonl",
        "split_dataset_ratio": 0,
        "tuner_type": "lora",
        "torch_dtype": "float32",
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-3,
        "lora_rank": 8,
        "lora_alpha": 32,
        "target_modules": "all-linear",
        "freeze_vit": "true",
        "freeze_aligner": "true",
        "gradient_accumulation_steps": 1,
        "save_strategy": "no",
        "logging_steps": 1,
        "max_length": 4096,
        "output_dir": "output",
        "warmup_ratio": 0.05,
        "dataloader_num_workers": 0,
        "report_to": "none",
        "seed": one.seed,
        "external_plugins": _HERE / "launched_swift.py",
        **one.settings,
    }
    named = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    return [*named, "--callbacks", "before", "eyechart", "after"]


def _axolotl(one: Launch) -> list[str]:
    """`examples/qwen2_5-vl/lora-7b.yaml` of axolotl, for a CPU, with rows as in its `docs/multimodal.qmd`."""
    lines = []
    for item, paths in zip(one.rows, _pictures(one), strict=True):
        messages = [{"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]}
                    for turn in _turns(item, "")]  # fmt: skip
        messages[0]["content"] = [{"type": "image", "path": path} for path in paths] + list(messages[0]["content"])
        lines.append(json.dumps({"messages": messages}))
    (one.folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "base_model": str(one.checkpoint.resolve()),
        "processor_type": "AutoProcessor",
        "skip_prepare_dataset": True,
        "remove_unused_columns": False,
        "sample_packing": False,
        "chat_template": "qwen2_vl",
        "datasets": [{"path": "rows.jsonl", "ds_type": "json", "type": "chat_template"}],
        "val_set_size": 0.0,
        "output_dir": "output",
        "adapter": "lora",
        "sequence_len": 8192,
        "pad_to_sequence_len": False,
        "lora_r": 32,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "lora_target_modules": r"model.language_model.layers.[\d]+.(mlp|cross_attn|self_attn)."
        r"(up|down|gate|q|k|v|o)_proj",
        "gradient_accumulation_steps": 1,
        "micro_batch_size": BATCH,
        "max_steps": STEPS,
        "optimizer": "adamw_torch",
        "lr_scheduler": "cosine",
        "learning_rate": 0.001,
        "bf16": False,
        "tf32": False,
        "gradient_checkpointing": True,
        "logging_steps": 1,
        "warmup_ratio": 0.1,
        "save_strategy": "no",
        "weight_decay": 0.0,
        "seed": one.seed,
        "plugins": ["launched_axolotl.Plugin"],
    }
    return [_config(one, config)]


def _config(one: Launch, config: dict[str, Any]) -> str:
    """Write the config, without what the launch sets to None."""
    kept = {key: value for key, value in {**config, **one.settings}.items() if value is not None}
    (one.folder / "config.yaml").write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    return "config.yaml"


_COMMANDS: dict[str, Callable[[Launch], list[str]]] = {
    "LLaMA-Factory": _llamafactory,
    "ms-swift": _swift,
    "axolotl": _axolotl,
}
_SCRIPTS = {"LLaMA-Factory": "llamafactory", "ms-swift": "swift", "axolotl": "axolotl"}
assert set(_COMMANDS) == set(LAUNCHED), "every stack with an environment has a command"
