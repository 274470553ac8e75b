"""``python -m npukit``: the same as the ``npukit`` command."""

import sys

from npukit.cli import main

sys.exit(main())
