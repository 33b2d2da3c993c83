"""`python -m illume_runtime` is `illume`."""

import sys

from illume_runtime.cli.main import main

sys.exit(main())
