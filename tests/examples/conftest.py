"""The examples' modules, which lie beside their programs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "text"))
