"""`python -m lib.pipeline`."""

import sys

from lib.pipeline.child import leave_out_iris
from lib.pipeline.children import stop_on_signals

if __name__ == "__main__":
    stop_on_signals()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a path that a locale has no letters for
    leave_out_iris()
    from lib.pipeline.commands import main

    main()
