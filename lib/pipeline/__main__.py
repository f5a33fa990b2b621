"""`python -m lib.pipeline`."""

from lib.pipeline.children import stop_on_signals

if __name__ == "__main__":
    stop_on_signals()
    from lib.pipeline.commands import main

    main()
