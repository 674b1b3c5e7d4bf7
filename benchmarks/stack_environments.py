"""Makes an environment of its own for each of LLaMA-Factory, ms-swift and axolotl, for `threads.py`.

    make stack-environments                       all of them; 6 GB of disk, and some minutes each
    python benchmarks/stack_environments.py NAME  one of them, for example ms-swift

pip installs the stack with its own dependencies, a build of torch for CPUs, and eyechart beside it. PyPI's torchvision
and torchaudio are made for CUDA builds of torch and do not load beside one for CPUs: torchvision's two missing
operators, which are never called, are declared (`model_stub.py`), and torchaudio, which LLaMA-Factory imports and these
trainings do not use, becomes an empty module. An environment that exists is left as it is; delete its folder to make it
again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "outputs" / "stack-environments"
TORCH = "torch==2.13.0"
_MARK = "made.txt"
_SHOWN = ("torch", "transformers", "trl", "accelerate", "peft", "datasets")


@dataclass(frozen=True)
class Environment:
    """What is installed for a stack."""

    package: str
    version: str
    more: tuple[str, ...] = ()
    """What its trainings need beyond its own requirements."""


ENVIRONMENTS = {
    "LLaMA-Factory": Environment("llamafactory", "0.9.5"),
    "ms-swift": Environment("ms-swift", "4.6.0", ("qwen-vl-utils", "torchvision")),
    "axolotl": Environment("axolotl", "0.19.0"),
}


def python_of(stack: str) -> Path:
    """The Python of a stack's environment."""
    return FOLDER / ENVIRONMENTS[stack].package / "bin" / "python"


def exists(stack: str) -> bool:
    """Whether the environment was made to its end."""
    return (FOLDER / ENVIRONMENTS[stack].package / _MARK).is_file()


def versions(stack: str) -> str:
    """The versions in a stack's environment."""
    return (FOLDER / ENVIRONMENTS[stack].package / _MARK).read_text(encoding="utf-8").strip()


def make(stack: str) -> None:
    """Make the environment of a stack.

    Raises:
        CalledProcessError: pip failed; it printed why.
    """
    wanted, folder = ENVIRONMENTS[stack], FOLDER / ENVIRONMENTS[stack].package
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = python_of(stack)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, TORCH, f"{wanted.package}=={wanted.version}", *wanted.more], check=True)
    subprocess.run([*pip, "-e", ROOT / "eyechart"], check=True)
    _loadable(next((folder / "lib").glob("python*/site-packages")))
    (folder / _MARK).write_text(_versions(python, wanted), encoding="utf-8")


def _loadable(packages: Path) -> None:
    """Let torchvision declare its missing operators before it needs them, and empty torchaudio."""
    vision, audio = (packages / name / "__init__.py" for name in ("torchvision", "torchaudio"))
    if vision.is_file():
        shutil.copy(ROOT / "benchmarks" / "model_stub.py", packages / "torchvision_operators.py")
        line = "import torchvision_operators; torchvision_operators.declare_operators()\n"
        vision.write_text(line + vision.read_text(encoding="utf-8"), encoding="utf-8")
    if audio.is_file():
        audio.write_text('"""Empty: the library of torchaudio does not load beside this torch."""\n', encoding="utf-8")


def _versions(python: Path, wanted: Environment) -> str:
    code = (
        "import importlib.metadata as m, sys\n"
        "print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:] if any(m.distributions(name=n))))"
    )
    done = subprocess.run([python, "-c", code, wanted.package, *_SHOWN], check=True, capture_output=True, text=True)
    return done.stdout


def main() -> int:
    """Make those that do not exist."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", nargs="*", metavar="NAME", help=f"of {', '.join(ENVIRONMENTS)}")
    wanted = parser.parse_args().stacks or list(ENVIRONMENTS)
    unknown = [name for name in wanted if name not in ENVIRONMENTS]
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; expected {', '.join(ENVIRONMENTS)}")
    failed = []
    for stack in wanted:
        if not exists(stack):
            try:
                make(stack)
            except subprocess.CalledProcessError as error:
                print(f"{stack}: {error}", file=sys.stderr)
                failed.append(stack)
                continue
        print(f"{stack}: {versions(stack)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
