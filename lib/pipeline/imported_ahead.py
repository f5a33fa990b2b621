"""What the fork server imports, and so is there in every kernel that it forks: see `lib.pipeline.forking`."""

import atexit
import gc
import importlib
import os
import signal

from lib.pipeline.child import die_with, leave_out_iris, outlive

signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pipeline's to answer
die_with(int(os.environ["EXPERIMENT10_PARENT"]))
leave_out_iris()
for name in ("ipykernel.kernelapp", *os.environ["EXPERIMENT10_IMPORTS"].split()):
    importlib.import_module(name)
outlive()  # the thread that has started the server; the server ends by itself when no process has its other end
gc.freeze()  # or the first collection of every fork would copy all of it
atexit.register(os._exit, 0)  # first of all, so at once, and without what libraries have to say of their end
