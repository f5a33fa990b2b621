"""Reads a profile's file strictly: one mapping of names to plain values, YAML 1.2's scalars, nothing taken silently."""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from lib.errors import InputError, first_line

MOST_BYTES = 65_536
MOST_CHARACTERS = 1_000  # of a value
NULL = re.compile(r"~|null|Null|NULL|")
TRUE, FALSE = re.compile(r"true|True|TRUE"), re.compile(r"false|False|FALSE")
WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
PADDED = re.compile(r"[-+]?0[0-9_]+")
REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")

Value = None | bool | int | float | str
CONTENT = "one mapping, each line `name: value`"


def read(path: Path, name: str) -> dict[str, Value]:
    """`{key: value}` of a YAML file, called `name` in errors.

    Raises `InputError` in one line, with the number of the file's line where there is one, for whatever else it holds:
    other encodings than UTF-8, syntax errors, lists, nested mappings, tags, anchors, several documents, keys that stand
    twice, numbers with leading zeros, nothing at all.
    """
    text = decoded(path, name)
    try:
        return entries(yaml.parse(text, Loader=yaml.SafeLoader), name)
    except yaml.reader.ReaderError as error:
        where = text.count("\n", 0, error.position) + 1
        raise InputError(f"{name}, line {where}: holds the character {error.character:#x}, allowed: text") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InputError(f"{name}, line {mark.line + 1}: {error.problem}; allowed: {CONTENT}") from None


def decoded(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{name}: can't be read ({error.strerror}); put a text file there, or remove it") from None
    if len(content) > MOST_BYTES:
        raise InputError(f"{name}: larger than {MOST_BYTES:,} bytes, allowed: {CONTENT}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}, line {where}: not in UTF-8 ({first_line(error)}); save it as UTF-8") from None


def entries(events: Iterable[yaml.Event], name: str) -> dict[str, Value]:
    found: dict[str, Value] = {}
    key = None
    documents = depth = 0
    for event in events:
        where = f"{name}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise InputError(f"{where}: begins a second document, allowed: one")
        elif isinstance(event, yaml.AliasEvent):
            raise InputError(f"{where}: uses the alias *{event.anchor}, allowed: values written out")
        elif isinstance(event, yaml.NodeEvent):
            what = {yaml.SequenceStartEvent: "a list", yaml.MappingStartEvent: "a mapping"}.get(type(event), "a value")
            if event.tag is not None or event.anchor is not None:
                mark = f"&{event.anchor}" if event.tag is None else event.tag
                raise InputError(f"{where}: {what} marked {mark}, allowed: plain values")
            if depth == 0 and what != "a mapping":
                if what == "a value" and not event.value and event.style is None:
                    break
                raise InputError(f"{where}: {what}, allowed: {CONTENT}")
            if depth == 1 and what != "a value":
                role = "as a key" if key is None else f"for {key}"
                raise InputError(
                    f"{where}: {what} {role}, allowed: one plain value; numbers parted by spaces in quotes"
                )
            if what == "a mapping":
                depth = 1
            elif key is None:
                key = event.value
                if key in found:
                    raise InputError(f"{where}: {short(key)} stands there twice, allowed: once")
            else:
                found[key] = scalar(event, f"{where}: {short(key)}")
                key = None
    if not found:
        raise InputError(f"{name}: empty; name at least one parameter and its value, or remove it")
    return found


def scalar(event: yaml.ScalarEvent, where: str) -> Value:
    """A value by YAML 1.2's rules; what is quoted is text."""
    text = event.value
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{where}: a value of {len(text):,} characters, allowed: at most {MOST_CHARACTERS:,}")
    if event.style is not None:
        return text
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text) or FALSE.fullmatch(text):
        return bool(TRUE.fullmatch(text))
    if PADDED.fullmatch(text):
        raise InputError(f"{where}: given {text}, allowed: numbers without leading zeros")
    if WHOLE.fullmatch(text):
        return int(text)
    return float(text) if REAL.fullmatch(text) else text


def short(text: str, most: int = 60) -> str:
    """Text for an error's one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
