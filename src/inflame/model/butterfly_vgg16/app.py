"""The switchboard of this model: `python app.py [train|score] [key=value …]`; `--help` says more."""

import sys
from pathlib import Path

from inflame.model.engine.switchboard import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
