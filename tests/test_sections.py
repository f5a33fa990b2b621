import json
from importlib import import_module
from pkgutil import iter_modules
from typing import NotRequired, get_origin, get_type_hints, is_typeddict

import measured
import pytest
import synthetic

from lib.errors import InputError
from lib.results import describe, io, sections


def test_the_schema_is_made_from_the_types():
    kept = json.loads((io.SCHEMAS / "sections.json").read_text(encoding="utf-8"))
    assert kept == describe.described(), "python -m lib.results.describe writes it anew"


def test_every_key_of_a_type_is_in_the_schema_and_the_other_way_round():
    kept = io.schema("sections")
    assert set(kept["properties"]) == set(get_type_hints(sections.Results))
    modules = [import_module(found.name) for found in iter_modules(sections.__path__, f"{sections.__name__}.")]
    types = {name: kind for module in modules for name, kind in vars(module).items() if is_typeddict(kind)}
    for name, described in kept["$defs"].items():
        hints = get_type_hints(types[name], include_extras=True)
        assert set(described["properties"]) == set(hints), name
        always = {key for key, hint in hints.items() if get_origin(hint) is not NotRequired}
        assert set(described["required"]) == always, name
        assert described["additionalProperties"] is False


@pytest.mark.parametrize("build", [synthetic.results, measured.build])
def test_the_builders_of_the_tests_make_whole_sections(build):
    found = io.plain(build())
    assert len(found) >= 11
    for section, data in found.items():
        io.validate_section(section, data, section)


def dicts(data, path=()):
    """Every dict inside, one for each place but for the index in a list."""
    if isinstance(data, dict):
        yield path, data
    for key, inner in data.items() if isinstance(data, dict) else [("0", data[0])] if data else ():
        if isinstance(inner, (dict, list)):
            yield from dicts(inner, (*path, key))


def first_rows(data):
    """The data with one row of each list of dicts: those that `dicts` gives, under one schema for all rows."""
    if isinstance(data, dict):
        return {key: first_rows(inner) for key, inner in data.items()}
    if isinstance(data, list):
        return [first_rows(inner) for inner in (data[:1] if data and isinstance(data[0], dict) else data)]
    return data


FREE = ("parameters", "evidence", "limits")  # keys of these are not told by the types


def test_a_key_too_many_or_too_few_is_named():
    found = io.plain(synthetic.results())
    count = 0
    for section, whole in found.items():
        data = first_rows(whole)
        assert [path for path, _ in dicts(data)] == [path for path, _ in dicts(whole)]
        io.validate_section(section, data, section)
        for path, inner in list(dicts(data)):
            if any(key in FREE for key in path):
                continue
            inner["misspelt_9.9"] = 1.0
            with pytest.raises(InputError, match=r"misspelt_9\.9|anyOf|not valid under"):
                io.validate_section(section, data, section)
            del inner["misspelt_9.9"]
            for key in list(inner):
                if key in ("shape", "judged_by_sample") or key.replace(".", "").isdigit():
                    continue
                value = inner.pop(key)
                with pytest.raises(InputError):
                    io.validate_section(section, data, section)
                inner[key] = value
                count += 1
    assert count > 250


def test_a_section_of_ones_own_may_hold_anything():
    io.validate_section("V6", {"whatever": [1, None, "x"]}, "V6")
