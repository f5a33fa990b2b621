"""A section's results as preformatted text in which every linked number has an anchor of its own."""

import html
import json

from report.prose import anchor

WIDE = 100


def view(name, data, referenced):
    """HTML of `data` as indented JSON; `referenced` are the anchors that texts link to."""
    return "".join(_value(data, (name,), referenced, 0))


def _value(value, trail, referenced, depth):
    here = anchor(trail)
    if here in referenced:
        yield f'<span id="{html.escape(here)}" class="r">'
    yield from _body(value, trail, referenced, depth)
    if here in referenced:
        yield "</span>"


def _body(value, trail, referenced, depth):
    if not isinstance(value, dict | list) or not value:
        yield html.escape(json.dumps(value, ensure_ascii=False))
        return
    flat = len(json.dumps(value, ensure_ascii=False)) <= WIDE
    pad, end = ("", "") if flat else ("\n" + " " * (depth + 1), "\n" + " " * depth)
    is_dict = isinstance(value, dict)
    yield "{" if is_dict else "["
    for i, (key, inner) in enumerate(value.items() if is_dict else enumerate(value)):
        yield ("," + (" " if flat else "") if i else "") + pad
        if is_dict:
            yield html.escape(json.dumps(key, ensure_ascii=False)) + ": "
        yield from _value(inner, (*trail, key), referenced, depth + 1)
    yield end + ("}" if is_dict else "]")
