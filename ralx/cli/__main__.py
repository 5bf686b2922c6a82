"""`python -m ralx.cli` is `ralx-train`."""

import sys

from ralx.cli import main

sys.exit(main())
