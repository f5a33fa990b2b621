"""A profile's file is one mapping of plain values, or one line says what it is instead, where, and what to do."""

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib import params, profile_file
from lib.errors import InputError

GOOD = "n_ctx: 64\nsplit: validation\n"


def refused(path):
    with pytest.raises(InputError) as error:
        profile_file.read(path, "params/mine.yaml")
    message = str(error.value)
    assert "\n" not in message and len(message) < 300
    return message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"- n_ctx\n- 64\n", "params/mine.yaml, line 1: a list, allowed: one mapping, each line `name: value`"),
        (b"64\n", "params/mine.yaml, line 1: a value, allowed: one mapping"),
        (b"n_ctx 64\n", "params/mine.yaml, line 1: a value, allowed: one mapping"),
        (b"n_ctx: 64\nsplit: [a\n", "params/mine.yaml, line 2: a list for split, allowed: one plain value"),
        (b"n_ctx: 64\nsplit: 'a\n", "params/mine.yaml, line 3: found unexpected end of stream; allowed: one mapping"),
        (b"n_ctx: 64\n\tsplit: a\n", "params/mine.yaml, line 2: "),
        (b"n_ctx: 64\n---\nsplit: a\n", "params/mine.yaml, line 2: begins a second document, allowed: one"),
        (b"n_ctx: 64\n? [a, b]\n: 1\n", "params/mine.yaml, line 2: a list as a key, allowed: one plain value"),
        (b"n_ctx: 64\n? {a: b}\n: 1\n", "params/mine.yaml, line 2: a mapping as a key, allowed: one plain value"),
        (b"n_ctx: !!python/name:os.system 64\n", "line 1: a value marked tag:yaml.org,2002:python/name:os.system"),
        (b"n_ctx: &a 64\nseed: *a\n", "params/mine.yaml, line 1: a value marked &a, allowed: plain values"),
        (b"n_ctx: 64\nseed: *a\n", "params/mine.yaml, line 2: uses the alias *a, allowed: values written out"),
        (GOOD.encode("utf-16"), "params/mine.yaml, line 1: not in UTF-8 ("),
        ("split: größe\n".encode("latin-1"), "params/mine.yaml, line 1: not in UTF-8 ("),
        (b"n_ctx: 64\nsplit: a\0b\n", "params/mine.yaml, line 2: holds the character 0x0, allowed: text"),
        (b"n_ctx: " + 5000 * b"7", "params/mine.yaml, line 1: n_ctx: a value of 5,000 characters, allowed: at most"),
        (b"n_ctx: 64\nn_ctx: 128\n", "params/mine.yaml, line 2: n_ctx stands there twice, allowed: once"),
        (b"n_ctx: 010\n", "params/mine.yaml, line 1: n_ctx: given 010, allowed: numbers without leading zeros"),
        (b"", "params/mine.yaml: empty; name at least one parameter and its value, or remove it"),
        (b"# only words\n", "params/mine.yaml: empty; name"),
        (b"{}", "params/mine.yaml: empty; name"),
        (b"n_ctx: 64\n" * 10_000, "params/mine.yaml: larger than 65,536 bytes"),
        (b"[" * 60_000, "params/mine.yaml, line 1: a list, allowed: one mapping"),
    ],
)
def test_a_damaged_file(tmp_path, content, said):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert said in refused(path)


@pytest.mark.parametrize("kind", ["folder", "link", "absent"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "mine.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "nowhere")
    assert refused(path).startswith("params/mine.yaml: can't be read (")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64", 64),
        ("-3", -3),
        ("0.8", 0.8),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("2026-01-01", "2026-01-01"),
        ("'010'", "010"),
        ("", None),
        ("~", None),
        ('""', ""),
        ("0 30 all", "0 30 all"),
        ("日本語", "日本語"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path, text, value):
    path = tmp_path / "mine.yaml"
    path.write_text(f"key: {text}\n", encoding="utf-8")
    found = profile_file.read(path, "mine")["key"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("name", params.profile_names())
def test_the_project_s_profiles_read_as_before(name):
    path = params.PROFILES / f"{name}.yaml"
    assert profile_file.read(path, name) == yaml.safe_load(path.read_text(encoding="utf-8"))


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
@example(b"a: \xf0\x9f\x98\x80")
@settings(max_examples=400, deadline=None)
def test_no_file_ends_in_anything_but_values_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        found = profile_file.read(path, "any")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert found and all(isinstance(value, (type(None), bool, int, float, str)) for value in found.values())


@given(st.sampled_from(sorted(params.RULES)), st.text(max_size=80) | st.integers() | st.floats() | st.none())
@settings(max_examples=400, deadline=None)
def test_no_parameter_ends_in_anything_but_a_value_or_one_line(name, value):
    try:
        params.check(name, value)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["../..", "a b", "a;b", "$(x)", "-x", "store", "", "a/b", "größe", "x" * 65, "--help"])
def test_what_is_no_profile_s_name(name):
    with pytest.raises(InputError, match=r"^profile: given [^\n]*$"):
        params.load_profile(name)


def test_the_nearest_name_is_said():
    with pytest.raises(InputError, match=r"^profile: given '\.\./smoke' \(did you mean smoke\?\), allowed: a name"):
        params.load_profile("../smoke")


def test_only_sound_names_are_offered(tmp_path, monkeypatch):
    monkeypatch.setattr(params, "PROFILES", tmp_path)
    for name in ("good", "my profile", "store", "good-2"):
        (tmp_path / f"{name}.yaml").write_text(GOOD)
    assert params.profile_names() == ["good", "good-2"]
