"""Parameters: flat names with a type and a range, profiles of them, and checks that come before any work."""

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import profile_file
from lib.errors import InputError
from lib.layout import ROOT

PROFILES = ROOT / "params"
BASE_PROFILE = "embedded"
PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TAKEN = (  # what else lies under `build/`
    "store", "bench", "embedded-model", "judge-model", "reasoner", "scale", "recovery", "coverage", "packs",
)  # fmt: skip
OF_THE_RUN = ("workers",)  # how a run computes: no result knows of it, and the next run is asked anew
HEAD = re.compile(r"L(\d+)H(\d+)")


@dataclass(frozen=True)
class Whole:
    low: int
    high: int | None = None

    @property
    def allowed(self) -> str:
        return f"a whole number {'from' if self.high is None else 'between'} {self.low}" + (
            "" if self.high is None else f" and {self.high}"
        )

    def read(self, value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+", value.strip()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError
        if value < self.low or (self.high is not None and value > self.high):
            raise ValueError
        return value


@dataclass(frozen=True)
class Real:
    above: float
    high: float

    @property
    def allowed(self) -> str:
        return f"a number above {self.above:g} and at most {self.high:g}"

    def read(self, value: Any) -> float:
        value = float(value) if not isinstance(value, bool) else math.nan
        if not self.above < value <= self.high:
            raise ValueError
        return value


@dataclass(frozen=True)
class Choice:
    names: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(self.names)

    def read(self, value: Any) -> str:
        if value not in self.names:
            raise ValueError
        return value


@dataclass(frozen=True)
class Text:
    pattern: str
    allowed: str

    def read(self, value: Any) -> str:
        value = str(value) if isinstance(value, (str, Path)) or type(value) is int else None
        if value is None or not re.fullmatch(self.pattern, value):
            raise ValueError
        return value


@dataclass(frozen=True)
class Workers:
    """Processes that compute scores: so many on this machine, or those of a scheduler at an address."""

    most: int = 1024
    address = re.compile(r"(tcp|tls)://([A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")

    @property
    def allowed(self) -> str:
        return f"a whole number between 0 and {self.most}, or a scheduler's address such as tcp://host:8786"

    def read(self, value: Any) -> int | str:
        found = self.address.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            return Whole(0, self.most).read(value)
        if not 1 <= int(found[3]) <= 65535:
            raise ValueError
        return value


_counts = Text(r"auto|(all|\d+)( (all|\d+))*", 'auto, or whole numbers and "all" parted by spaces')
_lengths = Text(r"auto|\d+( \d+)*", "auto, or whole numbers parted by spaces")
_place = "a folder, or the name of something on the hub"

RULES: dict[str, Whole | Real | Choice | Text | Workers] = {
    "model": Text(r"\S.*", _place),
    "tokenizer": Text(r".*", _place + ", or nothing"),
    "dataset": Text(r"\S.*", "cpython-stdlib, " + _place),
    "dataset_config": Text(r".*", "the name of a configuration, or nothing"),
    "split": Text(r"\w+", "the name of a split"),
    "n_ctx": Whole(2),
    "quick_chunks": Whole(1),
    "full_chunks": Whole(1),
    "relu_counts": _counts,
    "ladder": _counts,
    "context_lengths": _lengths,
    "context_tokens": Whole(2),
    "dtype": Choice(("float32", "bfloat16")),
    "device": Choice(("auto", "cpu", "cuda", "mps")),
    "backend": Choice(("auto", "naive", "triton", "metal", "native", "cpu")),
    "workers": Workers(),
    "seed": Whole(0, 2**32 - 1),
    "draws": Whole(100, 100_000),
    "audit_chunks": Whole(1),
    "top_heads": Whole(1),
    "scan_chunks": Whole(0),
    "control_chunks": Whole(0),
    "control_orders": Whole(0, 100),
    "crossfit_windows": Whole(0, 100),
    "focus_head": Text(rf"auto|{HEAD.pattern}", "auto, or a head such as L0H8"),
    "speed_prompt": Whole(1),
    "speed_tokens": Whole(1),
    "speed_runs": Whole(1, 1000),
    "prompts": Whole(1),
    "prompts_from": Choice(("spread", "first")),
    "prompt_tokens": Whole(1),
    "new_tokens": Whole(1),
    "iterations": Whole(1, 100),
    "samples": Whole(1, 1000),
    "temperature": Real(0.0, 10.0),
    "judge": Text(r".*", _place + ", auto, or nothing"),
    "reasoner": Text(r"\S.*", _place),
    "problems": Whole(2, 100_000),
    "ranking_problems": Whole(2, 100_000),
    "reasoner_rungs": Whole(1, 100),
    "revisions": Whole(1, 10),
    "votes": Whole(1, 64),
    "recovery_tokens": Whole(64),
    "order_windows": Whole(1, 64),
    "order_tokens": Whole(16),
    "order_climb": Whole(1),
    "beyond_chunks": Whole(1),
    "other_text": Text(r".*", "a folder or hub dataset with a test split, or nothing"),
}


def near(word: object, names: Iterable[str]) -> str:
    """` (did you mean x?)`, or nothing."""
    close = difflib.get_close_matches(str(word), list(names), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def check(name: str, value: Any, source: str = "parameter") -> int | float | str:
    """The value, coerced to its type; an `InputError` names the key, what was given and what is allowed."""
    if name not in RULES:
        unknown = profile_file.short(str(name))
        raise InputError(f"{source} {unknown}: unknown{near(name, RULES)}; allowed: {', '.join(RULES)}")
    try:
        return RULES[name].read(value)
    except (ValueError, TypeError, OverflowError):
        given = profile_file.short(repr(value), 200)
        raise InputError(f"{source} {name}: given {given}, allowed: {RULES[name].allowed}") from None


def profile_names() -> list[str]:
    """The profiles that may be chosen, sorted."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml") if is_profile_name(path.stem))


def is_profile_name(name: str) -> bool:
    return bool(PROFILE_NAME.fullmatch(name)) and name not in TAKEN


def check_profile_name(name: str) -> None:
    """`InputError` for what is no name of a profile; whether there is such a profile is not asked."""
    if name in TAKEN:
        raise InputError(f"profile: given {name!r}, the name of a folder under build/; choose another name")
    if not is_profile_name(name):
        shown = repr(profile_file.short(name))
        near_by = near(name.strip("./ "), profile_names())
        raise InputError(f"profile: given {shown}{near_by}, allowed: a name of letters, digits, - and _, as in params/")


def load_profile(name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All parameters of a profile, checked: the base profile's, the profile's own over them, `overrides` last."""
    check_profile_name(name)
    if name not in profile_names():
        raise InputError(f"profile: given {name!r}{near(name, profile_names())}, allowed: {', '.join(profile_names())}")
    values: dict[str, Any] = {}
    for stem in (BASE_PROFILE, name):
        loaded = profile_file.read(PROFILES / f"{stem}.yaml", f"params/{stem}.yaml")
        values |= {k: check(k, v, f"params/{stem}.yaml,") for k, v in loaded.items()}
    given = {k: check(k, v, "-p") for k, v in (overrides or {}).items()}
    values |= given
    fit_to_corpus(values, given)
    return values


def fit_to_corpus(values: dict[str, Any], given: Collection[str]) -> None:
    """Bounds that hang on other parameters: one that was given must keep them, a profile's own is cut to them."""
    bounds = {
        "quick_chunks": ("full_chunks", values["full_chunks"]),
        "prompts": ("full_chunks, each prompt being the start of a chunk", values["full_chunks"]),
        "context_tokens": ("full_chunks * n_ctx", values["full_chunks"] * values["n_ctx"]),
    }
    for key, (formula, bound) in bounds.items():
        if key in given and values[key] > bound:
            raise InputError(f"{key}: given {values[key]}, allowed: at most {bound} ({formula})")
        values[key] = min(values[key], bound)
    spans = {
        "iterations": (
            "prompt_tokens + new_tokens * iterations",
            values["prompt_tokens"] + values["new_tokens"] * values["iterations"],
        ),
        "speed_tokens": ("speed_prompt + speed_tokens", values["speed_prompt"] + values["speed_tokens"]),
    }
    for key, (formula, length) in spans.items():
        if length > values["n_ctx"]:
            raise InputError(f"{key}: {formula} = {length}, allowed: at most n_ctx = {values['n_ctx']}")
    for length in () if values["context_lengths"] == "auto" else map(int, values["context_lengths"].split()):
        if not 2 <= length <= min(values["n_ctx"], values["context_tokens"]):
            raise InputError(
                f"context_lengths: given {length}, allowed: between 2 and n_ctx = {values['n_ctx']},"
                f" and no more than context_tokens = {values['context_tokens']}"
            )


def counts(name: str, value: str, n_rankable: int, auto: list[int]) -> list[int]:
    """Numbers of heads, ascending: `auto`'s where they fit, else what was given, `all` being `n_rankable`."""
    if value == "auto":
        return auto
    given = [n_rankable if word == "all" else int(word) for word in value.split()]
    for n in given:
        if n > n_rankable:
            raise InputError(f"{name}: given {n}, allowed: at most {n_rankable}, the heads outside layer 0")
    return sorted(set(given))


def resolve_for_model(values: Mapping[str, Any], n_layer: int, n_head: int, n_positions: int) -> dict[str, Any]:
    """The parameters that depend on the model's shape: `ladder`, `relu_counts`, `context_lengths`, as lists.

    `auto` gives the write-up's values where the model is as large as GPT-2 small, else the same shares of its heads.
    """
    if values["n_ctx"] > n_positions:
        raise InputError(
            f"n_ctx: given {values['n_ctx']}, allowed: at most {n_positions}, the model's; pass -p n_ctx {n_positions}"
        )
    n_rankable = (n_layer - 1) * n_head
    if n_rankable < 1:
        raise InputError(f"model: given one of {n_layer} layer, allowed: two or more (layer 0 is not ranked)")
    published = sorted({n for n in range(0, 101, 10) if n < n_rankable} | {n_rankable})
    ladder = counts("ladder", values["ladder"], n_rankable, published)
    if ladder[0] != 0:
        ladder = [0, *ladder]
    shares = [30, 70] if n_rankable >= 132 else sorted({max(1, round(n_rankable * s / 132)) for s in (30, 70)})
    lengths = values["context_lengths"]
    longest = min(values["n_ctx"], values["context_tokens"])
    return {
        "ladder": ladder,
        "relu_counts": counts("relu_counts", values["relu_counts"], n_rankable, shares),
        "context_lengths": sorted(
            {max(2, longest // share) for share in (8, 4, 2, 1)}
            if lengths == "auto"
            else set(map(int, lengths.split()))
        ),
        "n_rankable": n_rankable,
    }


def read_head(text: str, n_layer: int, n_head: int) -> tuple[int, int]:
    """`L3H1` as (3, 1)."""
    found = HEAD.fullmatch(text)
    assert found is not None, "`check` lets no other text through"
    layer, head = map(int, found.groups())
    if layer >= n_layer or head >= n_head:
        raise InputError(f"focus_head: given {text}, allowed: L0H0 to L{n_layer - 1}H{n_head - 1}")
    return layer, head
