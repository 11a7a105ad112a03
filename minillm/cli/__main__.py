"""`python -m minillm.cli`, where the `minillm` script is not installed."""

import sys

from minillm.cli import main

sys.exit(main())
