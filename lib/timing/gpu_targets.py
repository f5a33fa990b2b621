"""What a GPU session is held to: each target, and what was measured for it.

All of it is bf16 at d_head 64, causal, against the fastest other implementation in the same run. A target's figure is
the median; the worst tenth of the runs stands beside it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class Target(NamedTuple):
    """`what` a session measures in the rows of a `step` that `chosen` picks; `at_most` or at least `wanted`."""

    name: str
    what: str
    step: str
    chosen: Callable[[Mapping[str, Any]], bool]
    wanted: float
    at_most: bool = False


def _named(pattern: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: re.fullmatch(pattern, row["name"]) is not None


def _ladder(dtype: str) -> Callable[[Mapping[str, Any]], bool]:
    wanted = {"what": "ladder", "graph": True, "dtype": dtype, "chunks": 245, "steps": 11}
    return lambda row: wanted.items() <= row.items()


TARGETS = (
    *(Target(f"forward, T = {n}", "ratio", "bench", _named(f"gpu_bf16_{n}"), 1.2) for n in (2048, 4096, 8192, 16384)),
    Target("forward, T = 16384", "tflops", "bench", _named("gpu_bf16_16384"), 530),
    Target("backward, T = 16384", "tflops", "bench", _named("gpu_backward_16384"), 474),
    *(Target(f"{n} / 144 heads", "ratio", "bench", _named(f"gpu_mixed_{n}_.*"), 1.0) for n in (30, 70)),
    Target("decoding, B = 1", "tokens_per_s", "bench", _named("gpu_decode_gpt2_.*"), 10_000),
    *(Target(f"ladder, 245 × 11, {d}", "seconds", "end_to_end", _ladder(d), 20, True) for d in ("bfloat16", "float32")),
)


def judged(session: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`[{name, what, wanted, at_most, measured, worst_tenth, met, row}]` of a session's `{step: what it found}`.

    Of several rows the worst counts. `measured` and `met` are None unless all of them agree with float64.
    """
    found = []
    for target in TARGETS:
        rows = [row for row in session.get(target.step, {}).get("rows", ()) if target.chosen(row)]
        values = [(row[target.what], row) for row in rows if row["agrees"] and row.get(target.what) is not None]
        verdict: dict[str, Any] = {key: getattr(target, key) for key in ("name", "what", "wanted", "at_most")}
        verdict |= {"measured": None, "worst_tenth": None, "met": None, "row": None}
        if values and len(values) == len(rows):
            value, row = (max if target.at_most else min)(values, key=lambda pair: pair[0])
            met = value <= target.wanted if target.at_most else value >= target.wanted
            name = row["name"] if target.step == "bench" else None
            verdict |= {"measured": value, "worst_tenth": _worst_tenth(target, row), "met": met, "row": name}
        found.append(verdict)
    return found


def _worst_tenth(target: Target, row: Mapping[str, Any]) -> float | None:
    """What nine of ten runs reach, where the row has its runs' spread."""
    if target.what == "ratio":
        return row.get("ratio_q10")
    times = row.get("times", {})
    own = times.get(row.get("own", "relu")) or times.get("graph")
    return None if own is None else row[target.what] * own["ms"] / own["ms_q90"]


UNITS = {"ratio": "×", "tflops": "TFLOP/s", "tokens_per_s": "tokens/s", "seconds": "s"}


def limit(verdict: Mapping[str, Any]) -> str:
    """What is wanted, with its unit."""
    return f"{'≤' if verdict['at_most'] else '≥'} {verdict['wanted']:,g} {UNITS[verdict['what']]}"


def elsewhere(measurements: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The targets of sessions kept from other machines (`kernels.measured.load`), as notebook K shows them.

    `[{name, device, date, limit, measured, worst_tenth, verdict}]`: met, missed or "not measured".
    """
    verdicts = {True: "met", False: "missed", None: "not measured"}
    return [
        {"name": own["name"], "device": found["device_name"], "date": found["date"][:10], "limit": limit(own)}
        | {key: own[key] for key in ("measured", "worst_tenth")}
        | {"verdict": verdicts[own["met"]]}
        for found in measurements
        for own in found.get("targets", ())
    ]


def printed(verdict: Mapping[str, Any]) -> str:
    """One target as a line."""
    wanted = f"{verdict['name']:28} {limit(verdict):20}"
    if verdict["met"] is None:
        return f"{wanted}: not measured"
    tenth = "" if verdict["worst_tenth"] is None else f" (nine of ten runs: {verdict['worst_tenth']:.4g})"
    return f"{wanted}: {verdict['measured']:.4g}{tenth}, {'met' if verdict['met'] else 'MISSED'}"
