import copy
import json
import math

import measured
import numpy as np
import pytest

from lib import files
from lib.errors import InputError
from lib.results import io, provenance

SECTION = {"section": "mine", "parameters": {"profile": "drawn"}, "data": {"ppl": 31.04}}


def section(**data):
    return copy.deepcopy(SECTION) | {"data": data, "provenance": measured.PROVENANCE}


def refused(call, *args):
    with pytest.raises(InputError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_replaced_only_when_its_block_ends_well(tmp_path):
    path = tmp_path / "deep" / "figures.json"
    with files.replacing(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"

    with pytest.raises(KeyboardInterrupt), files.replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first"

    with files.replacing(path) as partial:
        partial.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert names(tmp_path) == ["figures.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "V1.json"
    io.write_json(path, section(ppl=31.04), "section")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        io.write_json(path, section(ppl=object()), "section")
    assert path.read_bytes() == before
    assert names(tmp_path) == ["V1.json"]


def test_numbers_survive_and_what_is_not_finite_becomes_null(tmp_path):
    path = tmp_path / "V1.json"
    value = {
        "pi": np.float64(math.pi),
        "n": np.int64(2**40),
        "row": np.array([1.5, np.nan, np.inf, -np.inf], dtype=np.float32),
        "bare": (float("nan"), 2),
        "yes": np.bool_(True),
        3: "key",
        "word": "注意",
    }
    io.write_json(path, value)
    text = path.read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    assert io.read_json(path) == {
        "pi": math.pi,
        "n": 2**40,
        "row": [1.5, None, None, None],
        "bare": [None, 2],
        "yes": True,
        "3": "key",
        "word": "注意",
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The two assembled files and the sections of a run, as they were read back."""
    folder = tmp_path_factory.mktemp("data")
    measured.write(folder, measured.build())
    return folder


KINDS = ("exp10v_validation", "exp10p_phase3")


def test_a_whole_run_keeps_the_schemas(written):
    for kind in KINDS:
        io.read_json(written / f"{kind}_drawn.json", kind)
    sections = io.load(written)
    assert {"setup", "phases", "V1", "V2", "V3", "V4", "V5", "P1", "P2", "P3", "P4"} <= set(sections)
    assert sections == measured.build()


DAMAGE = [
    ("exp10v_validation", ("ppl_full",), "31.04", "ppl_full"),
    ("exp10v_validation", ("ppl_full",), float("nan"), "ppl_full"),
    ("exp10v_validation", ("ppl_2k",), 0, "ppl_2k"),
    ("exp10v_validation", ("n_chunks",), 1.5, "n_chunks"),
    ("exp10v_validation", ("v2_top10", 1, "delta_ppl_2k"), None, "v2_top10/1/delta_ppl_2k"),
    ("exp10v_validation", ("v3_focus_head", "layer"), -1, "v3_focus_head/layer"),
    ("exp10v_validation", ("ranking", 3), [1, 2, 3], "ranking/3"),
    ("exp10v_validation", ("v4_cumulative", 0, "ratio"), "one", "v4_cumulative/0/ratio"),
    ("exp10v_validation", ("v4_cumulative_2k",), [], "v4_cumulative_2k"),
    ("exp10v_validation", ("v5_comparison", "bias"), "rosy", "v5_comparison/bias"),
    ("exp10v_validation", ("v5_comparison", "thresholds_full", "1.1"), 3.5, "v5_comparison/thresholds_full/1.1"),
    ("exp10v_validation", ("provenance", "model", "fingerprint"), "?", "provenance/model/fingerprint"),
    ("exp10p_phase3", ("p1_speed", "rows", 0, "tok_per_s"), 0, "p1_speed/rows/0/tok_per_s"),
    ("exp10p_phase3", ("p2_self_refinement", "conditions", 1, "condition"), "relu", "conditions/1/condition"),
    ("exp10p_phase3", ("p3_best_of_n", "conditions", 0, "expected"), [], "p3_best_of_n/conditions/0/expected"),
    ("exp10p_phase3", ("p4_context_length", "lengths", 0), 1, "p4_context_length/lengths/0"),
    ("exp10p_phase3", ("provenance", "seed"), -1, "provenance/seed"),
]


@pytest.mark.parametrize(("kind", "keys", "value", "named"), DAMAGE)
def test_a_violation_is_named_on_writing_and_on_reading(written, tmp_path, kind, keys, value, named):
    good = written / f"{kind}_drawn.json"
    record = json.loads(good.read_text(encoding="utf-8"))
    place = record
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value

    path = tmp_path / good.name
    path.write_bytes(good.read_bytes())
    message = refused(io.write_json, path, record, kind)
    assert f"{path.name}: " in message
    assert named + ": " in message
    assert path.read_bytes() == good.read_bytes()
    assert names(tmp_path) == [path.name]

    path.write_text(json.dumps(io.plain(record)), encoding="utf-8")
    assert named + ": " in refused(io.read_json, path, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_required_key_is_missed_by_name(written, kind):
    record = io.read_json(written / f"{kind}_drawn.json", kind)
    required = io.schema(kind)["required"]
    assert {"model", "provenance"} < set(required)
    for key in required:
        message = refused(io.validate, {k: v for k, v in record.items() if k != key}, kind, "file.json")
        assert f"'{key}'" in message


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "exp10v_validation_x.json"
    path.write_text('{"model": "x", "ppl_2k": 31.')
    assert f"{path}: damaged" in refused(io.read_json, path, "exp10v_validation")
    path.write_bytes(b"\xff\xfe\x00")
    assert f"{path}: damaged" in refused(io.read_json, path)
    path.unlink()
    assert f"{path}: not there" in refused(io.read_json, path)


def test_sections_of_a_folder(tmp_path):
    assert "no results there" in refused(io.load, tmp_path)
    io.write_json(io.section_path(tmp_path, "V1"), section(ppl=31.04), "section")
    # what a writer that was killed in the middle leaves behind
    (tmp_path / "sections" / ".V1.json.k3.json").write_text('{"section": "V1", "da')
    assert io.load(tmp_path) == {"V1": {"ppl": 31.04}}
    io.write_json(tmp_path / "sections" / "V2.json", {"section": "V2"})
    assert "V2.json: (top): 'parameters' is a required property" in refused(io.load, tmp_path)


def test_provenance_says_where_numbers_come_from():
    identity = {"name": "tiny", "fingerprint": "0" * 64}
    record = provenance.provenance(
        "smoke", {"n_ctx": 128}, 10, identity, identity, "cpu", "naive", provenance.Start(0.0, "c0ffee", True), 1.234
    )
    io.validate({"section": "V1", "parameters": {}, "data": {}, "provenance": record}, "section", "V1")
    assert (record["commit"], record["dirty"]) == ("c0ffee", True)
    assert record["times"] == {"started": "1970-01-01T00:00:00+00:00", "seconds": 1.23}
    assert record["versions"]["torch"].split("+")[0] == "2.13.0"
    assert (record["seed"], record["backend"], record["parameters"]) == (10, "naive", {"n_ctx": 128})
