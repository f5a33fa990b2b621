"""`python -m lib.pipeline`."""

from lib.pipeline.child import leave_out_iris
from lib.pipeline.children import stop_on_signals

if __name__ == "__main__":
    stop_on_signals()
    leave_out_iris()
    from lib.pipeline.commands import main

    main()
