"""``python -m gnfast``: the command line."""

import sys

from gnfast.cli import main

sys.exit(main())
