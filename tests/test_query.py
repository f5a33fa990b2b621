import re

import measured
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import InputError
from lib.results import published
from lib.results.query import Index, Key, NoRow, NotMeasured, Where, evaluate, follow, lookup, parse, written
from report import readme_numbers

DATA = {
    "a": {
        "b": [{"layer": 0, "head": 8, "x": 1.5}, {"layer": 0, "head": 1, "x": 2.5}],
        "t": {"1.1": 20, "30": 6},
        "none": None,
    }
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b[1].x", 2.5),
        ("a.b[-1].x", 2.5),
        ("a.b[-2].x", 1.5),
        ("a.b[layer=0,head=1].x", 2.5),
        ("a.b[ layer = 0 ].x", 1.5),
        ("a.t[1.1]", 20),
        ("a.t[30]", 6),
        ("a.none", None),
        ("a.none.x", None),
        ("a.none[0][k=v]", None),
    ],
)
def test_places(path, value):
    assert lookup(DATA, path) == value


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        ("V9.x", NotMeasured, "no section 'V9'"),
        ("a.b[2]", NoRow, "no [2] in a list of 2"),
        ("a.b[-3]", NoRow, "no [-3]"),
        ("a.b[layer=0,head=7].x", NoRow, "no row with [layer=0,head=7]"),
        ("a.c.d", InputError, "no 'c' there; there are b, t, none"),
        ("a.b[layr=0].x", InputError, "no row has a 'layr'; rows have layer, head, x"),
        ("a.b[0].y", InputError, "no 'y'"),
        ("a.b.x", InputError, "a list"),
        ("a.b[1.1]", InputError, "a list"),
        ("a.t[2.0]", InputError, "no '2.0'"),
        ("a.t[x=1]", InputError, "wants a list"),
        ("a.b[0].x.z", InputError, "a number"),
        ("a.b[", InputError, "can't be read at '['"),
        ("", InputError, "can't be read"),
        (".a", InputError, "can't be read at '.a'"),
        ("a..b", InputError, "can't be read at '..b'"),
        ("a b", InputError, "can't be read at ' b'"),
        ("a.b[x=]", InputError, "can't be read"),
        ("a.b[x=1,]", InputError, "can't be read"),
        ("a.b[ ]", InputError, "can't be read"),
    ],
)
def test_what_is_not_there_is_told_apart(path, kind, said):
    with pytest.raises(InputError) as caught:
        lookup(DATA, path)
    assert caught.type is kind and said in str(caught.value) and "\n" not in str(caught.value)


def test_sums():
    assert evaluate(DATA, "a.b[1].x / a.b[0].x - 1") == pytest.approx(2 / 3)
    assert evaluate(DATA, "1 - a.b[0].x") == -0.5
    assert evaluate(DATA, "a.b[0].x / a.none") is None
    with pytest.raises(InputError):
        evaluate(DATA, "a.b[0].x / a.nothing")


names = st.from_regex(r"[A-Za-z_]\w{0,8}", fullmatch=True)
bare = st.text(st.characters(blacklist_characters="[]=,", blacklist_categories=["Cs"]), min_size=1, max_size=8)
odd = bare.map(str.strip).filter(bool)
steps_of = st.one_of(
    names.map(Key),
    odd.filter(lambda text: not re.fullmatch(r"-?\d+", text)).map(Key),
    st.integers(-(10**8), 10**8).map(Index),
    st.lists(st.tuples(odd, odd), min_size=1, max_size=3).map(lambda pairs: Where(tuple(pairs))),
)
paths = st.tuples(names.map(Key), st.lists(steps_of, max_size=5)).map(lambda parts: (parts[0], *parts[1]))


@given(paths)
def test_a_path_that_is_written_is_read_again(steps):
    assert parse(written(steps)) == steps


scraps = st.lists(
    st.sampled_from(["a", "b", "t", "x", "none", ".", "[", "]", "[0]", "[-1]", "[1.1]", "[x=0]", "=", ",", " ", "９"]),
    max_size=9,
).map("".join)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "x", "0", "1.1"]), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from("abt"), json), scraps | st.text(max_size=12))
def test_any_path_into_anything_ends_in_a_value_or_one_line(data, path):
    try:
        lookup(data, path)
    except InputError as error:
        assert "\n" not in str(error).replace(repr(path), "")


@given(json, paths)
def test_where_a_path_leads_is_where_its_trail_leads(data, steps):
    try:
        trail, value = follow(data, steps, "path")
    except InputError:
        return
    for key in trail:
        data = data[key]
    assert data is value


def test_every_place_of_a_run_has_a_path():
    found = measured.build()

    def places(data, steps):
        yield steps, data
        items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
        for key, inner in items:
            yield from places(inner, (*steps, Index(key) if isinstance(key, int) else parse(f"[{key}]")[0]))

    some = [place for place in places(found, ()) if place[0]]
    assert len(some) > 1000
    for steps, value in some:
        assert lookup(found, written(steps)) is value or lookup(found, written(steps)) == value


def test_the_readme_reads_figures_and_the_intervals_beside_them():
    found = synthetic.results()
    read = readme_numbers.value
    assert read(found, "V1.ppl_full") == (31.041234, [30.0, 32.1])
    assert read(found, "V4.thresholds_full[1.1]") == (20, [20, 30])
    assert read(found, "V4.cumulative[-1].ratio")[1] == found["V4"]["cumulative"][-1]["ratio_ci"]
    assert read(found, "P2.conditions[0].ppl[-1]") == (1.42, found["P2"]["conditions"][0]["ppl_ci"][-1])
    assert read(found, "V2.top10[0]") == (found["V2"]["top10"][0], None)
    with pytest.raises(InputError, match="no 'ppl_ful'"):
        read(found, "V1.ppl_ful")


def test_published_figures_are_read_by_the_same_paths():
    assert published.value("P2.conditions[condition=baseline].ppl[-1]") == 1.42
    assert published.value("V4.cumulative[n_linearized=55].ratio") is published.value("V1.nothing") is None
    with pytest.raises(InputError, match="can't be read"):
        published.value("V1.ppl_full]")
