"""`python -m ralx.cli` is `ralx-train`."""

import sys

from ralx.cli.train import main

sys.exit(main())
