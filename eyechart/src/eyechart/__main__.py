"""Run the command `eyechart` with `python -m eyechart`."""

import sys

from eyechart.cli import main

sys.exit(main())
