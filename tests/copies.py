"""Results that many tests ask for, made once in a process."""

import pickle
from functools import cache, wraps


def copies(build):
    """`build`, run once for the same arguments: every call gives a copy of its own to change."""

    @cache
    def made(*given, **named):
        return pickle.dumps(build(*given, **named))

    return wraps(build)(lambda *given, **named: pickle.loads(made(*given, **named)))
