"""Entry point of ``python -m cgbench`` and of the ``cgbench`` script."""

from __future__ import annotations

import sys

from cgbench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
