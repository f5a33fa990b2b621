"""The explorer: what a number of changed heads costs and saves, read off the ladders that the results hold.

A ladder is `{mode, tokens, alone, rows}`, alone where its intervals speak of those few chunks only. A row `{n, ppl,
ppl_ci, ratio, ratio_ci, saved_attention, saved_model, extra_attention, extra_model}`. The first four come from the
results as they are. The rest is arithmetic on the model's shape (`lib.analysis.flops`): shares (0–1) of the FLOPs of
attention alone, as published, and of the whole model, and the tokens that they buy in P3; None where no end is set to
those, or where P3 was not measured.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from lib.analysis import flops
from lib.errors import InputError
from report.prose import QUICK_ALONE, quick_alone, term
from report.words import EXPLORER_WORDS, LANGUAGES

AFTER = "validation"
LIMIT = 300 * 1024
TOKENS = ("full", "2k", "spread")  # the last: V4's controls, in ReLU's order on chunks from all over the text
# mode -> how `flops` counts a head of it
KINDS = {
    "relu": "relu",
    "mix": "relu",
    "factored": "factored",
    "uniform": "uniform",
    "mean": "constant",
    "zero": "constant",
}
WITHOUT_SCORES = ("constant", "uniform")  # of such a head, the published count leaves nothing
Sections = Mapping[str, Mapping[str, Any]]


def ladders(sections: Sections) -> list[dict[str, Any]]:
    """The ladders of `{section: {data, parameters}}`; none where no section holds one, or the set-up is not there."""
    data = {name: section["data"] for name, section in sections.items()}
    if "setup" not in data:
        return []
    count, alone = counter(data["setup"], sections.get("P3", {}).get("parameters", {})), quick_alone(data["setup"])
    return [
        {
            "mode": mode,
            "tokens": tokens,
            "alone": alone and tokens == "2k",
            "rows": [_figures(row) | count(mode, _figures(row)["n"]) for row in rows],
        }
        for (mode, tokens), rows in _measured(data).items()
    ]


def _measured(data: Mapping[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """`{(mode, tokens): rows}`, modes in the order of `KINDS`; of two ladders of the same, the finer one."""
    v4 = data.get("V4", {})
    found = [("relu", "full", v4.get("cumulative")), ("relu", "2k", v4.get("cumulative_2k"))]
    found += [("factored", "full", v4.get("factored"))]
    found += [(row["control"], "spread", row["cumulative"]) for row in (v4.get("controls") or {}).get("rows", [])]
    found += [(mode, "2k", data.get("phases", {}).get(mode, {}).get("cumulative")) for mode in KINDS]
    best: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for mode in KINDS:
        for tokens in TOKENS:
            own = [rows for m, t, rows in found if (m, t) == (mode, tokens) and rows]
            if own:
                best[mode, tokens] = max(own, key=len)
    return best


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    n = row["n_linearized"] if "n_linearized" in row else row["n"]
    return {"n": n} | {key: row.get(key) for key in ("ppl", "ppl_ci", "ratio", "ratio_ci")}


def counter(setup: Mapping[str, Any], generation: Mapping[str, Any]) -> Callable[[str, int], dict[str, Any]]:
    """A function of mode and n that gives a row's FLOPs saved and tokens bought.

    setup: the data of the set-up. generation: P3's parameters `prompt_tokens` and `new_tokens`, or none.
    """
    shape, length = flops.Shape.of_results(setup["model"]), setup["n_ctx"]
    prompt, new = generation.get("prompt_tokens"), generation.get("new_tokens")

    def count(mode: str, n: int) -> dict[str, Any]:
        kind, share = KINDS[mode], n / shape.n_heads
        gone = kind in WITHOUT_SCORES
        saved = share if gone else flops.published_saving(n, shape.n_heads, length, shape.d_head)
        row = {
            "saved_attention": saved,
            "saved_model": 1 - flops.prefill_flops(shape, length, n, kind) / flops.prefill_flops(shape, length),
            "extra_attention": None,
            "extra_model": None,
        }
        if prompt and new:
            middle = prompt + new // 2
            ratio = 1 - share if gone else flops.published_token_ratio(n, shape.n_heads, middle, shape.d_head)
            row["extra_attention"] = flops.extra_tokens(ratio, new) if ratio > 0 else None
            row["extra_model"] = flops.extra_decoded(shape, n, kind, prompt, new)
        return row

    return count


def for_page(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What script and template need: `{ladders, modes, tokens, words}`, in both languages; at most `LIMIT` bytes."""
    modes = {row["mode"]: {lang: term(row["mode"], lang) for lang in LANGUAGES} for row in found}
    words = {key: dict(zip(LANGUAGES, pair, strict=True)) for key, pair in EXPLORER_WORDS.items()}
    alone = words.pop("2k_alone")
    words["in_table"] = words["2k"]
    if any(row["alone"] for row in found):
        words["2k"] = alone
        words["note"] = {lang: f"{words['note'][lang]}{' ' * (lang == 'en')}{QUICK_ALONE[lang]}" for lang in LANGUAGES}
    tokens = [name for name in TOKENS if any(row["tokens"] == name for row in found)]
    page = {"ladders": found, "modes": modes, "tokens": tokens, "words": words}
    size = len(json.dumps(page, ensure_ascii=False).encode())
    if size > LIMIT:
        raise InputError(f"the explorer's data: {size:,} bytes, allowed: {LIMIT:,}; shorten the ladder")
    return page
