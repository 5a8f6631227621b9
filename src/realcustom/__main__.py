"""`python -m realcustom` is the command `realcustom`."""

import sys

from realcustom.apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
