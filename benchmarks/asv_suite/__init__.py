"""The suite that asv runs: see asv.conf.json, and `make asv`."""

import sys
from pathlib import Path

# asv finds this folder alone; what is measured is written down beside it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
