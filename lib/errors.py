"""The one error a user can mend: bad input, said in one line; and what is said of a run that stops half-way."""

KEPT = "what is finished is kept, run the same command to go on"
STOPPED = f"stopped; {KEPT}"


class InputError(ValueError):
    """What was given, what is allowed, what to do; shown without a traceback."""


def first_line(error: object) -> str:
    """What another's exception says, in one line of at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def steady(text: str) -> str:
    """A text from outside as a terminal may show it: signs that steer it or turn the line around are spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
