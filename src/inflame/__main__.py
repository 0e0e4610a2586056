"""`python -m inflame` is `inflame`."""

import sys

from inflame.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
