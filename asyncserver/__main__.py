"""`python -m asyncserver` is the command line."""

import contextlib
import os
import sys

from asyncserver._cli.main import main

with contextlib.suppress(FileNotFoundError, ValueError):
    # `-m` has put the working directory first. `target` does so again, when all that is imported late
    # is there: a file of the user's must not become our uvloop.
    if not sys.flags.safe_path:
        sys.path.remove(os.getcwd())

main()
