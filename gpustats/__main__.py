"""Run the command line by ``python -m gpustats``."""

import sys

from gpustats.cli import main

sys.exit(main())
