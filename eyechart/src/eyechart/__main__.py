"""Run the command `eyechart` with `python -m eyechart`."""

from eyechart.cli import program

program()
