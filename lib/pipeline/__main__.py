"""`python -m lib.pipeline`."""

from lib.pipeline.commands import main

main()
