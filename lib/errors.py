"""The one error a user can mend: bad input, said in one line."""


class InputError(ValueError):
    """What was given, what is allowed, what to do; shown without a traceback."""
