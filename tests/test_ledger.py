"""What the store's entries cost is noted where they are computed and found again where they are reused."""

import numpy as np

from lib import ledger
from lib.store import Store, digest

A, B, C = (digest("entry", i) for i in range(3))


def test_costs_are_noted_beside_the_keys(tmp_path):
    path = tmp_path / "smoke" / "keys" / "V1.txt"
    ledger.write(path, {A, B}, {A: 1.25, C: 9.0})
    assert ledger.read(path) == {A: 1.25, B: None}
    assert ledger.known(tmp_path) == {A: 1.25}
    assert ledger.read(tmp_path / "nowhere.txt") == {}


def test_lines_without_a_number_of_seconds_are_keys_all_the_same(tmp_path):
    path = tmp_path / "V1.txt"
    path.write_text(f"{A}\n{B} nan\n\n{C} -1\n{'0' * 40} soon\n")
    assert ledger.read(path) == dict.fromkeys([A, B, C, "0" * 40])


def test_a_damaged_byte_costs_its_line_alone(tmp_path):
    path = tmp_path / "smoke" / "keys" / "V1.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(f"{A} 1.5\n{B} ".encode() + b"\xb9.5\n")
    assert ledger.read(path) == {A: 1.5, B: None}
    assert ledger.known(tmp_path) == {A: 1.5}


def test_the_store_tells_what_it_has_kept_from_what_it_has_found(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("lib.store.time.monotonic", lambda: now[0])
    first = Store(tmp_path)
    assert first.get(A) is None
    now[0] += 7
    first.put(A, np.zeros(3))
    now[0] += 2
    first.put(B, np.ones(3))
    assert first.seconds == {A: 7.0, B: 2.0}
    second = Store(tmp_path)
    assert second.get(A) is not None
    assert second.used == {A} and second.seconds == {}


def test_time_that_the_store_saves_is_told_apart(build, monkeypatch):
    """Two runs of one section: the first computes, the second finds what the first has computed."""
    from lib.pipeline.measuring import Measuring

    def section(name, cost):
        store = Store(build / "store")
        monkeypatch.setattr("lib.pipeline.measuring.open_store", lambda: store)
        run = Measuring(name, {"profile": "smoke"})
        if store.get(A) is None:
            store.put(A, np.zeros(3))
            store.seconds[A] = cost
        ledger.write(build / "smoke" / "keys" / f"{name}.txt", store.used, run.known_seconds | store.seconds)
        return run.reused_seconds()

    assert section("V1", 12.5) == 0
    assert section("V2", 99.0) == 12.5
    assert section("V1", 99.0) == 12.5
    assert ledger.known(build) == {A: 12.5}
