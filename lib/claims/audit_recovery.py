"""The figures of Part P and of the kernels, each made again from the ones that it was computed from.

Yields `(where, the value there, what it should be, what that follows from)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from lib.analysis import context as contexts
from lib.analysis import flops, generated
from lib.analysis.best_of_n import expected_best_of, first_best_of
from lib.analysis.prompts import lag1

Data = Mapping[str, Any]  # `{section: data}` as it stands in the files, whether or not it is well formed
Relation = tuple[str, Any, Any, str]

PUBLISHED_PROTOCOL = {"n_tokens": 128, "n_runs": 10}
PUBLISHED_THEORY = [{"n_linearized": n, "speedup": flops.published_speedup(n, 144)} for n in (30, 70)]


def speed(m: Data) -> Iterator[Relation]:
    p1 = m["P1"]
    for row in p1["rows"]:
        where = f"P1.rows[condition={row['condition']},protocol={row['protocol']}].ms_per_tok"
        yield where, row["ms_per_tok"], 1000 / row["tok_per_s"], "1000 / tok_per_s"
    yield "P1.published_protocol", p1["published_protocol"], PUBLISHED_PROTOCOL, "as published"
    yield "P1.published_theory", p1["published_theory"], PUBLISHED_THEORY, "the cost model for GPT-2 small"
    yield from _theory(m, p1["theory"], "P1.theory")


def _theory(m: Data, rows: list[Any], where: str) -> Iterator[Relation]:
    shape = m["setup"]["model"]
    for row in rows:
        n = row["n_linearized"]
        value = flops.published_speedup(n, shape["n_layer"] * shape["n_head"], m["setup"]["n_ctx"], shape["d_head"])
        yield f"{where}[n_linearized={n}].speedup", row["speedup"], value, "the cost model"


def refinement(m: Data) -> Iterator[Relation]:
    p2 = m["P2"]
    ppl = {row["condition"]: np.asarray(row["ppl_by_prompt"], float) for row in p2["conditions"]}
    base, human = ppl["baseline"], np.asarray(p2["human"]["ppl_by_prompt"], float)
    yield "P2 iterations × n_prompts", [p2["iterations"], p2["n_prompts"]], list(base.shape), "ppl_by_prompt"
    for where, row in (
        *((f"P2.conditions[condition={row['condition']}]", row) for row in p2["conditions"]),
        ("P2.human", p2["human"]),
    ):
        yield f"{where}.ppl", row["ppl"], np.mean(row["ppl_by_prompt"], axis=1).tolist(), "ppl_by_prompt"
    for row in p2["falls"]:
        own = ppl[row["condition"]]
        yield from _prompts(row, own[row["iteration"] - 1], own[0], "P2.falls")
    for row in p2["gaps"]:
        k = row["iteration"] - 1
        yield from _prompts(row, ppl[row["condition"]][k], base[k], "P2.gaps")
    for row in p2["against_human"]:
        yield from _prompts(row, ppl[row["condition"]][-1], human[-1], "P2.against_human")
    yield from _by_document(m, "P2", generated.refinement_by_document, ppl)
    for row in p2["closings"]:
        gaps = ppl[row["condition"]] - base
        where = f"P2.closings[condition={row['condition']}].difference"
        yield where, row["difference"], float((gaps[-1] - gaps[0]).mean()), "ppl_by_prompt"


def _by_document(m: Data, section: str, again: Callable[..., Data], ppl: Data) -> Iterator[Relation]:
    chosen, data = m["setup"]["parameters"], m[section]
    for key, value in again(ppl, data, data["documents"], chosen["seed"], chosen["draws"]).items():
        yield f"{section}.by_document.{key}", data["by_document"][key], value, "the PPLs and documents of the prompts"


def _prompts(row: Data, a: np.ndarray, b: np.ndarray, section: str) -> Iterator[Relation]:
    where = f"{section}[condition={row['condition']}" + (
        f",iteration={row['iteration']}]" if "iteration" in row else "]"
    )
    for key, value in {
        "difference": float((a - b).mean()),
        "relative": float(a.mean() / b.mean() - 1),
        "lower": int((a < b).sum()),
        "of": len(a),
        "lag1": lag1(a - b),
    }.items():
        yield f"{where}.{key}", row[key], value, "ppl_by_prompt"


def best_of(m: Data) -> Iterator[Relation]:
    p3 = m["P3"]
    ns, sources = p3["n"], {"model": "ppl_by_sample", "judge": "judged_by_sample"}
    ppl = {
        judge: {row["condition"]: np.asarray(row[key], float) for row in p3["conditions"] if key in row}
        for judge, key in sources.items()
    }

    def best(condition: str, n: int, chooser: str = "model", scorer: str = "model") -> float:
        score = ppl[scorer][condition] if scorer != chooser else None
        return expected_best_of(ppl[chooser][condition], [n], score)[0]

    yield "P3.n_prompts", p3["n_prompts"], len(ppl["model"]["baseline"]), "ppl_by_sample"
    for key, value in (m["setup"]["judge"] or {}).items() if p3["judge"] else ():
        yield f"P3.judge.{key}", p3["judge"][key], value, f"setup.judge.{key}"
    for row in p3["conditions"]:
        where, own = f"P3.conditions[condition={row['condition']}]", ppl["model"][row["condition"]]
        yield f"{where}.first_n", row["first_n"], first_best_of(own, ns), "ppl_by_sample"
        yield f"{where}.expected", row["expected"], expected_best_of(own, ns), "ppl_by_sample"
    for key, sides in {
        "against_baseline": lambda row: (best(row["condition"], row["best_of"]), best("baseline", 1)),
        "equal_n": lambda row: (best(row["condition"], row["n"]), best("baseline", row["n"])),
        "selection": lambda row: (best(row["condition"], row["n"]), best(row["condition"], 1)),
    }.items():
        for i, row in enumerate(p3[key]):
            yield from _against(row, *sides(row), f"P3.{key}[{i}]", "ppl_by_sample")
    for key in ("chunks", "documents") if "P2" in m else ():
        yield f"P3.{key}", p3[key], m["P2"][key], f"P2.{key}: the prompts are the same"
    yield from _by_document(m, "P3", generated.best_of_by_document, ppl["model"])
    for i, row in enumerate(p3["judged"]):
        judges = row["chosen_by"], row["scored_by"]
        value = best(row["condition"], row["n"], *judges)
        yield f"P3.judged[{i}].value", row["value"], value, "the samples as judged"
        gain = value / best(row["condition"], 1, *judges) - 1
        yield f"P3.judged[{i}].gain", row["gain"], gain, "the samples as judged"
        yield from _against(row, value, best("baseline", 1, *judges), f"P3.judged[{i}]", "the samples as judged")
    humans = {"P3.human": p3["human"]} | ({"P3.judge.human": p3["judge"]["human"]} if p3["judge"] else {})
    for where, human in humans.items():
        yield f"{where}.ppl", human["ppl"], float(np.mean(human["ppl_by_prompt"])), "ppl_by_prompt"
    shape = flops.Shape.of_results(m["setup"]["model"])
    for row in p3["equal_flops"]:
        n = row["n_linearized"]
        for key, value in flops.equal_flops(shape, n, p3["prompt_tokens"], p3["new_tokens"]).items():
            yield f"P3.equal_flops[n_linearized={n}].{key}", row[key], value, "the cost model"


def _against(row: Data, a: float, b: float, where: str, rule: str) -> Iterator[Relation]:
    yield f"{where}.difference", row["difference"], a - b, rule
    yield f"{where}.relative", row["relative"], a / b - 1, rule


def context(m: Data) -> Iterator[Relation]:
    p4 = m["P4"]
    lengths = {n: i for i, n in enumerate(p4["lengths"])}
    ratio = {row["condition"]: row["ratio"] for row in p4["conditions"]}
    yield from _over_baseline(p4["conditions"], "P4.conditions")
    yield from _over_baseline(p4["by_position"]["conditions"], "P4.by_position.conditions")
    for placed in ("start", "in place"):
        own_place = [row for row in p4["same_targets"]["conditions"] if row["placed"] == placed]
        yield from _over_baseline(own_place, f"P4.same_targets.conditions[placed={placed}]")
    setup = m["setup"]
    n_ctx, n_chunks = setup["n_ctx"], setup["full_chunks"]
    expected = {
        "P4.n_tokens": (p4["n_tokens"], setup["parameters"]["context_tokens"]),
        "P4.by_position.n_tokens": (p4["by_position"]["n_tokens"], setup["full_tokens"]),
        "P4.by_position.bins": (p4["by_position"]["bins"], contexts.bins(n_ctx)),
        "P4.same_targets.contexts": (p4["same_targets"]["contexts"], contexts.contexts(n_ctx)),
        "P4.same_targets.n_targets": (p4["same_targets"]["n_targets"], n_ctx // contexts.TARGETS * n_chunks),
    }
    for where, (value, again) in expected.items():
        yield where, value, again, "the set-up"
    for key, first, last in (
        ("rise_at_longest", "before", "longest"),
        ("longest_against_shortest", "shortest", "longest"),
    ):
        for row in p4[key]:
            own = ratio[row["condition"]]
            value = own[lengths[row[last]]] - own[lengths[row[first]]]
            yield f"P4.{key}[condition={row['condition']}].difference", row["difference"], value, "P4.conditions"
    for row in p4["excess_ratios"]:
        longer, shorter = (ratio[row["condition"]][lengths[row[key]]] - 1 for key in ("longer", "shorter"))
        where = f"P4.excess_ratios[condition={row['condition']},shorter={row['shorter']},longer={row['longer']}].ratio"
        yield where, row["ratio"], longer / shorter if shorter else None, "P4.conditions"
    for row in p4["same_targets"]["conditions"]:
        where = f"P4.same_targets.conditions[condition={row['condition']},placed={row['placed']}].difference"
        yield where, row["difference"], row["ratio"][-1] - row["ratio"][0], "ratio"


def _over_baseline(rows: list[Any], where: str) -> Iterator[Relation]:
    base = next(row["ppl"] for row in rows if row["condition"] == "baseline")
    for row in rows:
        for i, (ratio, ppl, below) in enumerate(zip(row["ratio"], row["ppl"], base, strict=True)):
            yield f"{where}[condition={row['condition']}].ratio[{i}]", ratio, ppl / below, "ppl / the baseline's"


def kernels(m: Data) -> Iterator[Relation]:
    k = m["K"]
    at = {(row["what"], row["n_linearized"]): row for row in k["rows"]}
    for row in (*k["rows"], k["gpt2_shape"], *k["shapes"]):
        where = f"K.rows[what={row['what']},n_linearized={row['n_linearized']}]"
        seconds = row["seconds"]
        yield f"{where}.ms", row["ms"], None if seconds is None else 1000 * seconds, "seconds"
        yield f"{where}.verdict", row["verdict"], _speed_verdict(row), "speedup_ci"
    verdicts = [row["verdict"] for row in k["rows"]]
    yield "K.faster", k["faster"], verdicts.count("faster"), "K.rows"
    yield "K.slower", k["slower"], verdicts.count("slower"), "K.rows"
    yield "K.compared", k["compared"], len(verdicts) - verdicts.count("baseline"), "K.rows"
    yield "K.last", k["last"], [row for row in k["rows"] if row["n_linearized"] == k["n_last"]], "K.rows"
    share, prefill, attention = k["attention_share"], at["prefill", k["n_last"]], at["attention", k["n_last"]]
    if share < 1:
        yield "K.bound", k["bound"], flops.amdahl(share), "Amdahl's law on attention_share"
    expected = flops.amdahl(share, attention["speedup"]) if attention["agrees"] else None
    yield "K.expected_prefill", k["expected_prefill"], expected, "Amdahl's law on attention_share"
    yield "K.measured_prefill", k["measured_prefill"], prefill["speedup"], "K.rows"
    yield "K.measured_prefill_ci", k["measured_prefill_ci"], prefill["speedup_ci"], "K.rows"
    for row in k["bounds"]:
        n = row["n_linearized"]
        value = flops.amdahl(share * n / m["setup"]["n_heads"])
        yield f"K.bounds[n_linearized={n}].speedup", row["speedup"], value, "Amdahl's law on attention_share"
    yield from _theory(m, k["theory"], "K.theory")
    yield "K.published_theory", k["published_theory"], PUBLISHED_THEORY, "the cost model for GPT-2 small"
    for row in k["budget"]:
        where, promised, real = (
            f"K.budget[n_linearized={row['n_linearized']}]",
            row["extra_published"],
            row["extra_measured"],
        )
        decoding = at["decoding", row["n_linearized"]]
        bought = flops.extra_tokens(1 / decoding["speedup"], k["new_tokens"]) if decoding["agrees"] else None
        yield f"{where}.extra_measured", real, bought, "the speed of decoding"
        part = min(1.0, max(0, real) / promised) if real is not None and promised > 0 else None
        yield f"{where}.share_real", row["share_real"], part, "extra_measured / extra_published"
    yield "K.ridge", k["ridge"], k["peak_flops"] / k["copy_bytes"], "peak_flops / copy_bytes"
    for row in k["roofline"]:
        where = f"K.roofline[n_linearized={row['n_linearized']}].share_of_peak"
        yield where, row["share_of_peak"], row["rate"] / k["peak_flops"], "rate / peak_flops"


def _speed_verdict(row: Data) -> str:
    if row["n_linearized"] == 0:
        return "baseline"
    if not row["agrees"]:
        return "differs"
    low, high = row["speedup_ci"]
    return "faster" if low > 1 else "slower" if high < 1 else "open"
