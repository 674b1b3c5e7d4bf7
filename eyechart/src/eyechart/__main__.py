"""`python -m eyechart` is `eyechart`."""

import sys

from eyechart.cli import main

sys.exit(main())
