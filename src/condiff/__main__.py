"""`python -m condiff` is the same command as `condiff`."""

import sys

from condiff.cli.main import main

sys.exit(main())
