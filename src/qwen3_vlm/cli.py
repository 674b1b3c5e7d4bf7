"""The command line: `qwen3-vlm trial | train | ablate | audit | diagnose | caption | export | report`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import tyro

from eyechart.exits import guarded
from qwen3_vlm.commands.ablate import Ablate
from qwen3_vlm.commands.audit import Audit
from qwen3_vlm.commands.caption import Caption
from qwen3_vlm.commands.diagnose import Diagnose
from qwen3_vlm.commands.export import Export
from qwen3_vlm.commands.report import Report
from qwen3_vlm.commands.train import Train
from qwen3_vlm.commands.trial import Trial

_Command = (
    Annotated[Trial, tyro.conf.subcommand("trial")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Caption, tyro.conf.subcommand("caption")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `qwen3-vlm` and return its exit code."""
    about = "Train a vision-language connector, and measure whether it carries the picture. Also: --version."
    return run_alone(_Command, "qwen3-vlm", arguments, about)


def run_alone(commands: Any, program: str, arguments: Sequence[str] | None = None, about: str | None = None) -> int:
    """Read the arguments of a command, or of one of several commands, run it, and return its exit code.

    Args:
        commands: the class of the command, or for tyro a union of several classes.
        program: the name of the program on the command line.
        arguments: the arguments; those of this process if None.
        about: the description in `--help`; by default the docstring of the class.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)

    def run() -> int:
        if commands is Ablate or typed[:1] == ["ablate"]:
            _refuse_moved(typed)
        if typed[:1] == ["--version"]:
            sys.stdout.write(f"qwen3-vlm {version('qwen3-vlm')}\n")
            return 0
        command, overrides = tyro.cli(commands, prog=program, description=about, args=typed, return_unknown_args=True)
        return int(command.run(overrides))

    return guarded(run, "qwen3_vlm")


def _refuse_moved(arguments: list[str]) -> None:
    """Report the new form of an old command before its arguments are parsed.

    Raises:
        ValueError: the arguments contain `--model`.
    """
    if any(part == "--model" or part.startswith("--model=") for part in arguments):
        raise ValueError(
            "ablate --model has moved: any other model is scored by `eyechart score MODEL --data ROWS "
            "--image_root FOLDER`"
        )


if __name__ == "__main__":
    sys.exit(main())
