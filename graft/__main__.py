"""`python -m graft`: the `graft` command."""

import sys

from graft.training.cli.main import main

sys.exit(main())
