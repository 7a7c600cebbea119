"""The studies are run from the root of the repository, where no package installs them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # last: the installed packages go first
