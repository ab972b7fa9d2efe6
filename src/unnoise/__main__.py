"""``python -m unnoise`` is the command line, also under torchrun."""

import sys

from unnoise.cli import main

if __name__ == "__main__":
    sys.exit(main())
