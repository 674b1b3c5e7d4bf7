"""The command line: `qwen3-vlm trial | train | ablate | audit | diagnose | caption | export | report`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from eyechart.exits import guarded
from eyechart.printing import out
from eyechart.process import as_program
from qwen3_vlm.arguments import parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `qwen3-vlm` and return its exit code."""
    about = "Train a vision-language connector, and measure whether it carries the picture. Also: --version."
    return run_alone(commands, "qwen3-vlm", arguments, about)


def program() -> NoReturn:
    """Run the command line `qwen3-vlm` as this process."""
    as_program(main, "qwen3_vlm")


def commands() -> Any:
    """Return the classes of all commands, as tyro takes them.

    They are imported here, as everything that takes time, because signals are only handled once a command has begun.
    """
    from typing import Annotated

    from tyro.conf import subcommand

    from qwen3_vlm.commands.ablate import Ablate
    from qwen3_vlm.commands.audit import Audit
    from qwen3_vlm.commands.caption import Caption
    from qwen3_vlm.commands.diagnose import Diagnose
    from qwen3_vlm.commands.export import Export
    from qwen3_vlm.commands.report import Report
    from qwen3_vlm.commands.train import Train
    from qwen3_vlm.commands.trial import Trial

    return (
        Annotated[Trial, subcommand("trial")]
        | Annotated[Train, subcommand("train")]
        | Annotated[Ablate, subcommand("ablate")]
        | Annotated[Audit, subcommand("audit")]
        | Annotated[Diagnose, subcommand("diagnose")]
        | Annotated[Caption, subcommand("caption")]
        | Annotated[Export, subcommand("export")]
        | Annotated[Report, subcommand("report")]
    )


def run_alone(
    kinds: Callable[[], Any], prog: str, arguments: Sequence[str] | None = None, about: str | None = None
) -> int:
    """Read the arguments of a command, or of one of several commands, run it, and return its exit code.

    Args:
        kinds: imports and returns the class of the command, or for tyro a union of several classes.
        prog: the name of the program on the command line.
        arguments: the arguments; those of this process if None.
        about: the description in `--help`; by default the docstring of the class.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)

    def run() -> int:
        if kinds is not commands or typed[:1] == ["ablate"]:
            _refuse_moved(typed)
        if typed[:1] == ["--version"]:
            out(f"qwen3-vlm {version('qwen3-vlm')}")
            return 0
        command, overrides = parsed(kinds(), prog, typed, about)
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
    program()
