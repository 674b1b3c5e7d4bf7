"""Records the software and hardware of a run, so that differences between runs can be explained.

The record contains no names of machines or people.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

_PACKAGES = (
    "eyechart",
    "qwen3-vlm",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "safetensors",
    "numpy",
    "pillow",
)
_GIT_SECONDS = 10


def environment() -> dict[str, str]:
    """Return the software versions and the hardware of this process, always with the same keys in the same order.

    The values contain no host name, no user name and no absolute path. A value that cannot be determined is `unknown`.
    The value for something that does not exist, such as a GPU, is `none`.
    """
    import torch

    return {
        "python": platform.python_version(),
        "platform": " ".join((platform.system(), platform.machine(), *platform.libc_ver())).strip(),
        "cpus": str(_usable_cpus()),
        "gpu": _gpu(),
        "threads": str(torch.get_num_threads()),
        **{name: _version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda or "none",
        "commit": _commit(),
    }


def _usable_cpus() -> int:
    """Return the number of CPUs that this process may use, which a container or `taskset` may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _version(package: str) -> str:
    if package == "torch":
        import torch

        return str(torch.__version__)  # includes the build, for example +cpu
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> str:
    """Return the git commit of the source tree of this package, with `+changes` if tracked files were changed."""
    root = Path(__file__).parents[4]
    # If the package is installed in site-packages, a repository in a parent folder belongs to another project.
    if not ((root / ".git").exists() and (root / "src" / "qwen3_vlm").is_dir()):
        return "none"
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+changes" if changes else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS).stdout.strip()
