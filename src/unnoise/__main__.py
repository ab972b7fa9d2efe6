"""``python -m unnoise`` is the command line, also under torchrun."""

import sys

from unnoise.cli import main

sys.exit(main())
