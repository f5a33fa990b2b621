"""A small run's results that follow from each other, made from drawn scores by the functions that a real run uses."""

import numpy as np
from copies import copies

from lib.analysis import (
    beyond,
    bootstrap,
    context,
    flops,
    generated,
    head_effects,
    orders,
    perplexity,
    quick_vs_full,
    recovered,
    scale,
    selection,
    windows,
)
from lib.claims import questions
from lib.engine.interventions import Plan
from lib.results import assembled, io

SHAPE = flops.Shape(n_layer=3, n_head=4, n_kv_head=4, d_head=16, n_embd=64, n_inner=256, vocab_size=512)
QUICK, FULL, N_CTX, SEED, DRAWS = 2, 20, 64, 7, 200
LADDER, COUNTS, LENGTHS = [0, 2, 5, 8], [2, 5], [16, 64]


JUDGE = {
    "name": "judge", "place": "judge", "fingerprint": "1" * 64, "n_layer": 2, "n_head": 2, "n_params": 50_000,
}  # fmt: skip


class Scores:
    """Drawn NLLs: a plan adds a little to the baseline's for each head it names."""

    def __init__(self):
        self.rng = np.random.default_rng(SEED)
        self.base = self.rng.normal(3.4, 1.0, (FULL, N_CTX - 1)).astype(np.float32)
        self.harm = {(layer, head): 0.6 / (1 + 4 * layer + head) ** 1.5 for layer in range(3) for head in range(4)}
        self.noise = {place: self.rng.normal(0, 0.01, self.base.shape) for place in self.harm}

    def score(self, plan):
        factor = {"zero": 1.0, "mean": 0.02, "relu": 0.1, "l1": 0.3, "identity": 0.9, "factored": 0.7, "uniform": 0.2}
        added = [factor[mode] * (self.harm[layer, head] + self.noise[layer, head]) for layer, head, mode in plan.heads]
        return (self.base + sum(added)).astype(np.float32) if added else self.base


@copies
def build():
    """`{section: data}`, as `lib.results.load` gives it."""
    scores = Scores()
    resamplers = {n: bootstrap.Resampler(n, N_CTX, SEED, DRAWS) for n in (QUICK, FULL)}
    heads = list(scores.harm)
    rankable = [place for place in heads if place[0]]
    found = {"setup": _setup()}

    def single(mode, places, n):
        nlls = [scores.score(Plan.of(mode, [place]))[:n] for place in places]
        return head_effects.head_rows(places, nlls, scores.base[:n], resamplers[n])

    def pile(order, mode, ns, n):
        piles = head_effects.pile([(*place, mode) for place in order], ns)
        return head_effects.curve(piles, {plan: scores.score(plan)[:n] for plan in piles.values()}, resamplers[n])

    data = {}
    data["baseline_ppl"], data["baseline_ppl_ci"] = perplexity.ppl_ci(scores.base[:QUICK], resamplers[QUICK])
    modes = {"zero": heads, "mean": heads, "relu": rankable, "l1": rankable, "identity": rankable}
    for mode, places in modes.items():
        rows = single(mode, places, QUICK)
        data[mode] = {"heads": rows, "summary": head_effects.summary(head_effects.deltas(rows))}
        if mode in ("zero", "mean"):
            data[mode]["layer_means"] = head_effects.layer_means(places, head_effects.deltas(rows))
            data[mode]["rank_law"] = head_effects.rank_law(head_effects.deltas(rows))
            data[mode]["top"] = sorted(rows, key=lambda row: -row["delta"])[:10]
            data[mode] |= pile(head_effects.order(rows), mode, LADDER, QUICK)
    ranking = head_effects.order(data["relu"]["heads"])
    data["relu"] |= pile(ranking, "relu", LADDER, QUICK)
    data["factored"] = pile(ranking, "factored", LADDER, QUICK)
    best = head_effects.best_per_head({mode: data[mode]["heads"] for mode in ("relu", "l1", "identity")})
    data["mix"] = {
        "best": best,
        "counts": {mode: sum(row["mode"] == mode for row in best) for mode in ("relu", "l1", "identity")},
        "mean": sum(head_effects.deltas(best)) / len(best),
    } | pile(ranking, "relu", LADDER, QUICK)
    data |= {"ranking": ranking, "flops_saved": flops.flops_saved(LADDER, SHAPE.n_heads, N_CTX, SHAPE.d_head)}
    alone = {
        mode: [scores.score(Plan.of(mode, [place]))[:QUICK] for place in (heads if mode == "zero" else rankable)]
        for mode in ("zero", "relu", "l1", "identity")
    }
    base, resampler = scores.base[:QUICK], resamplers[QUICK]
    data["paired"] = {
        mode: head_effects.paired(alone["relu"], alone[mode], base, resampler) for mode in ("l1", "identity")
    }
    zeroed = resampler.relatives(alone["zero"], base) - 1
    data["layer0_share"] = float(head_effects.layer0_share(heads, head_effects.deltas(data["zero"]["heads"])))
    data["layer0_share_ci"] = bootstrap.interval(head_effects.layer0_share(heads, zeroed))
    data["alpha_ci"] = head_effects.rank_law_ci(zeroed)
    found["phases"] = data

    quick, quick_ci = perplexity.ppl_ci(scores.base[:QUICK], resamplers[QUICK])
    full, full_ci = perplexity.ppl_ci(scores.base, resamplers[FULL])
    change = perplexity.change(
        quick, full, resamplers[QUICK].ppl(scores.base[:QUICK]), resamplers[FULL].ppl(scores.base)
    )
    found["V1"] = {
        "ppl_2k": quick, "ppl_2k_ci": quick_ci, "ppl_full": full, "ppl_full_ci": full_ci,
        "change": change[0], "change_ci": change[1], "n_chunks_2k": QUICK, "n_chunks": FULL,
        "tokens_2k": QUICK * N_CTX, "total_tokens": FULL * N_CTX,
        "sampling": quick_vs_full.sampling(scores.base, QUICK, SEED),
        "chunk_ppl": [perplexity.ppl(row[None]) for row in scores.base],
        "coverage": windows.coverage({"ppl": (scores.base, None)}, QUICK, None, SEED, DRAWS),
    }  # fmt: skip
    rest = scores.base[QUICK:]
    found["V1"]["ppl_rest"], found["V1"]["ppl_rest_ci"] = perplexity.ppl_ci(
        rest, bootstrap.Resampler.of(rest, SEED, DRAWS)
    )

    top = sorted(data["zero"]["heads"], key=lambda row: -row["delta"])[:6]
    places = head_effects.places(top)
    a, b = single("zero", places, QUICK), single("zero", places, FULL)
    without = bootstrap.Resampler(FULL - QUICK, N_CTX, SEED, DRAWS)
    zeroed = [scores.score(Plan.of("zero", [place]))[QUICK:] for place in places]
    c = head_effects.head_rows(places, zeroed, scores.base[QUICK:], without)
    draws = [resamplers[FULL].relative(scores.score(Plan.of("zero", [p])), scores.base) for p in places]
    ranks, ranks_ci = head_effects.ranks(head_effects.deltas(b)), head_effects.ranks_ci(np.stack(draws))
    rows = [
        {
            "layer": x["layer"], "head": x["head"], "rank_2k": i + 1, "rank_full": rank, "rank_full_ci": ends,
            "rank_all": rank, "rank_all_ci": ends,
            "delta_ppl_rest": z["delta"], "delta_ppl_rest_ci": z["delta_ci"],
            "ppl_2k": x["ppl"], "delta_ppl_2k": x["delta"], "delta_ppl_2k_ci": x["delta_ci"],
            "ppl_full": y["ppl"], "delta_ppl_full": y["delta"], "delta_ppl_full_ci": y["delta_ci"],
        }
        for i, (x, y, z, rank, ends) in enumerate(zip(a, b, c, ranks, ranks_ci, strict=True))
    ]  # fmt: skip
    by_chunk = bootstrap.Resampler.by_chunk(FULL, N_CTX, SEED, DRAWS)
    chunk_draws = np.stack([by_chunk.relative(scores.score(Plan.of("zero", [p])), scores.base) for p in places])
    by_full = sorted(rows, key=lambda row: row["rank_full"])
    quick_draws = np.stack(
        [resamplers[QUICK].relative(scores.score(Plan.of("zero", [p]))[:QUICK], scores.base[:QUICK]) for p in places]
    )
    found["V2"] = {
        "top10": rows, "same_top": rows[0]["rank_full"] == 1, "top5_same_set": True,
        "moved": [row for row in rows if row["rank_2k"] != row["rank_full"]],
        "spearman": head_effects.spearman(head_effects.deltas(a), head_effects.deltas(b)),
        "spearman_ci": head_effects.spearman_ci(quick_draws, np.stack(draws)),
        "by_chunk": {
            "rank_all_ci": head_effects.ranks_ci(chunk_draws),
            "spearman_ci": head_effects.spearman_ci(quick_draws, chunk_draws),
        },
        "lead": by_full[0]["delta_ppl_full"] / by_full[1]["delta_ppl_full"], "first_full": by_full[0],
        "coverage": windows.coverage(
            {f"zero:L{p[0]}H{p[1]}": (scores.score(Plan.of("zero", [p])), scores.base) for p in places},
            QUICK, None, SEED, DRAWS,
        ),
        "kept_heads": None,
        "scan": {
            "chunks": list(range(FULL)), "missed": [],
            "heads": [
                {key: row[key] for key in ("layer", "head", "delta", "delta_ci")} | {"rank": i + 1}
                for i, row in enumerate(sorted(single("zero", heads, FULL), key=lambda row: -row["delta"]))
            ],
        },
    }  # fmt: skip

    layer, head = places[0]
    v3, scored = {"layer": layer, "head": head}, {}
    for column, n in (("2k", QUICK), ("full", FULL)):
        zero, mean = (scores.score(Plan.of(mode, [(layer, head)]))[:n] for mode in ("zero", "mean"))
        base, resampler = scores.base[:n], resamplers[n]
        scored[column] = zero, mean, base, resampler
        for name, (value, ends) in {
            "zero_delta_ppl": perplexity.delta(zero, base, resampler),
            "mean_delta_ppl": perplexity.delta(mean, base, resampler),
            "reduction": perplexity.quotient(zero, mean, base, resampler),
            "constant_share": perplexity.constant_share(zero, mean, base, resampler),
        }.items():
            v3 |= {f"{name}_{column}": value, f"{name}_{column}_ci": ends}
    v3["constant_share_change"], v3["constant_share_change_ci"] = perplexity.constant_share_change(*scored.values())
    for name, nll in (("zero", zero), ("mean", mean)):
        value, ends = perplexity.delta(nll[QUICK:], base[QUICK:], without)
        v3 |= {f"{name}_delta_ppl_rest": value, f"{name}_delta_ppl_rest_ci": ends}
    v3["by_chunk"] = {
        "zero_delta_ppl_full_ci": perplexity.delta(zero, base, by_chunk)[1],
        "constant_share_full_ci": perplexity.constant_share(zero, mean, base, by_chunk)[1],
        "constant_share_change_ci": perplexity.constant_share_change(scored["2k"], (zero, mean, base, by_chunk))[1],
    }
    v3["coverage"] = windows.coverage(
        {"focus:zero": (zero, base), "focus:mean": (mean, base)}, QUICK, None, SEED, DRAWS
    )
    found["V3"] = v3

    v4 = {"audit": []}
    for column, table, n in (("2k", "cumulative_2k", QUICK), ("full", "cumulative", FULL)):
        curve = pile(ranking, "relu", LADDER, n)
        v4[table] = [{"n_linearized": row.pop("n")} | row for row in curve["cumulative"]]
        for name in ("thresholds", "crossings"):
            v4 |= {f"{name}_{column}": curve[name], f"{name}_{column}_ci": curve[f"{name}_ci"]}
    other = pile(ranking, "factored", [0, *COUNTS], FULL)
    v4["factored"] = [{"n_linearized": row.pop("n")} | row for row in other["cumulative"]]
    piles = head_effects.pile([(*place, "relu") for place in ranking], LADDER)
    curve = head_effects.curve(piles, {plan: scores.score(plan) for plan in piles.values()}, by_chunk)
    quick, full, single_chunks = (
        _crossing(scores, piles, n, resampler)
        for n, resampler in ((QUICK, resamplers[QUICK]), (FULL, resamplers[FULL]), (FULL, by_chunk))
    )
    v4["by_chunk"] = {
        "crossings_full_ci": curve["crossings_ci"], "shifts_ci": head_effects.shifts_ci(quick, single_chunks),
    }  # fmt: skip
    v4 |= {"shifts": _moved(v4, v4["crossings_full"]), "shifts_ci": head_effects.shifts_ci(quick, full)}
    v4 |= _selection(scores, ranking, rankable)
    other = v4["cross_fit"].pop("draws")
    v4["cross_fit"]["shifts"] = _moved(v4, v4["cross_fit"]["crossings"])
    v4["cross_fit"]["shifts_ci"] = head_effects.shifts_ci(quick, other)
    found["V4"] = v4
    found["V5"] = quick_vs_full.compare(found["V1"], found["V2"], found["V3"], v4) | {"kept_coverage": None}
    return io.plain(found | _recovery(scores))


def _crossing(scores, piles, n, resampler):
    cut = [scores.score(plan)[:n] for plan in piles.values()]
    return head_effects.all_crossing_draws(LADDER, resampler.relatives(cut, cut[0]))


def _moved(v4, crossings):
    return {limit: n - v4["crossings_2k"][limit] for limit, n in crossings.items()}


def _selection(scores, ranking, rankable):
    """V4's coverage, its ladder on other text, cross-fitting and controls."""
    piles = [Plan.of("relu", ranking[:n]) for n in LADDER]
    rest = bootstrap.Resampler(FULL - QUICK, N_CTX, SEED, DRAWS)
    curve = head_effects.curve(
        dict(zip(LADDER, piles, strict=True)), {plan: scores.score(plan)[QUICK:] for plan in piles}, rest
    )

    def score(plans, chunks):
        return {plan: scores.score(plan)[list(chunks)] for plan in plans}

    starts = [0, 6, 12, 18]
    fitted = selection.cross_fit(score, rankable, LADDER, starts, QUICK)
    for window in fitted["windows"]:
        window["shared"] = len(set(ranking[: COUNTS[0]]) & set(window.pop("ranking")[: COUNTS[0]]))
    draws = rest.relatives([scores.score(plan)[QUICK:] for plan in piles], scores.base[QUICK:])
    fitted["crossings"] = curve["crossings"]
    fitted["draws"] = selection.crossings_with_ranking(LADDER, draws, fitted["crossings_sd"], len(starts), SEED)
    fitted["crossings_ci"] = {limit: bootstrap.interval(own) for limit, own in fitted["draws"].items()}
    ladders = {mode: [Plan.of(mode, ranking[:n]) for n in LADDER] for mode in ("relu", "mean", "zero", "uniform")}
    order = selection.random_orders(rankable, 1, SEED)[0]
    ladders["random:1"] = [Plan.of("relu", order[:n]) for n in LADDER]
    found = {plan: scores.score(plan) for plans in ladders.values() for plan in plans}
    rows = selection.controls(ladders, LADDER, found, bootstrap.Resampler(FULL, N_CTX, SEED, DRAWS))
    return {
        "coverage": windows.ladder_coverage(LADDER, [scores.score(plan) for plan in piles], QUICK, None, SEED, DRAWS),
        "elsewhere": {
            "n_chunks": FULL - QUICK,
            "cumulative": [{"n_linearized": row.pop("n")} | row for row in curve["cumulative"]],
            "crossings": curve["crossings"],
            "crossings_ci": curve["crossings_ci"],
        },
        "cross_fit": fitted,
        "controls": {"chunks": list(range(FULL)), "rows": rows},
    }


def _setup():
    model = {
        "name": "drawn", "slug": "drawn", "family": "gpt2", "n_layer": 3, "n_head": 4, "n_kv_head": 4, "d_head": 16,
        "n_embd": 64, "d_mlp": 256, "n_positions": 64, "vocab_size": 512, "n_params": 100_000, "fingerprint": "0" * 64,
        "is_gpt2_small": False, "stored_dtypes": ["float32"],
    }  # fmt: skip
    corpus = {
        "name": "drawn", "split": "all", "fingerprint": "0" * 64, "n_tokens": FULL * N_CTX, "n_chunks": FULL,
        "normalised": {"bom": 0, "crlf": 0},
    }  # fmt: skip
    resampled = {"unit": "chunks", "length": 1, "n_units": FULL, "n_effective": 20.0, "scope": "corpus"}
    documents = {"unit": "module", "n": 20, "n_quick": 2, "longest": 64, "median": 64.0} | {
        "resampled": resampled, "resampled_quick": resampled | {"n_units": QUICK},
    }  # fmt: skip
    return {
        "model": model, "corpus": corpus, "documents": documents, "judge": JUDGE,
        "device": "cpu", "backend": "naive", "n_ctx": N_CTX, "quick_chunks": QUICK,
        "full_chunks": FULL, "quick_tokens": QUICK * N_CTX, "full_tokens": FULL * N_CTX, "ladder": LADDER,
        "relu_counts": COUNTS, "context_lengths": LENGTHS, "n_heads": 12, "n_rankable": 8,
        "parameters": {"seed": SEED, "draws": DRAWS, "context_tokens": FULL * N_CTX},
    }  # fmt: skip


PROTOCOL = {"n_tokens": 32, "n_runs": 9, "published_protocol": {"n_tokens": 128, "n_runs": 10}}


def _recovery(scores):
    rng, conditions = scores.rng, {"baseline": 0} | {f"relu_{n}": n for n in COUNTS}
    p1, p2, p4, iterated, sampled = [], [], [], {}, {"model": {}, "judge": {}}
    for i, (condition, n) in enumerate(conditions.items()):
        shared = {"condition": condition, "n_linearized": n}
        rate, rate_ci = bootstrap.median_ci(rng.normal(50 - i, 1, 9), SEED, DRAWS)
        p1.append(shared | {
            "protocol": "recomputed", "backend": "naive", "tok_per_s": rate, "tok_per_s_ci": rate_ci,
            "ms_per_tok": 1000 / rate, "relative": -0.01 * i, "relative_ci": [-0.01 * i - 0.02, -0.01 * i + 0.02],
            "against_control": None, "against_control_ci": None,
        })  # fmt: skip
        iterated[condition] = np.stack([rng.normal(level + 0.1 * i, 0.1, 20) for level in (2.4, 1.7, 1.4)])
        p2.append(shared | generated.by_iteration(iterated[condition], SEED, DRAWS) | {
            "distinct_2": [0.5, 0.4, 0.3], "longest_repeat": [20.0, 40.0, 60.0],
            "repeated_4gram_share": [0.5, 0.7, 0.8], "repeated_4gram_share_ci": [[0.4, 0.6], [0.6, 0.8], [0.7, 0.9]],
        })  # fmt: skip
        sampled["model"][condition] = np.exp(rng.normal(2.6 + 0.05 * i, 0.4, (20, 5)))
        sampled["judge"][condition] = sampled["model"][condition] * np.exp(rng.normal(0.2, 0.3, (20, 5)))
        ratios = [1 + 0.05 * i, 1 + 0.04 * i]
        p4.append(shared | {
            "ppl": [30 * ratios[0], 20 * ratios[1]], "ppl_ci": [[20.0, 50.0], [15.0, 40.0]], "ratio": ratios,
            "ratio_ci": [[ratio - 0.01, ratio + 0.01] for ratio in ratios],
        })  # fmt: skip
    theory, published_theory = (
        [{"n_linearized": n, "speedup": flops.published_speedup(n, *shape)} for n in counts]
        for counts, shape in ((COUNTS, (SHAPE.n_heads, N_CTX, SHAPE.d_head)), ((30, 70), (144,)))
    )
    human = np.stack([rng.normal(level, 0.2, 20) for level in (9.0, 8.0, 7.0)])
    documents = [i // 3 for i in range(20)]
    refined = generated.refinement(iterated, conditions, human, SEED, DRAWS)
    found = generated.best_of(sampled["model"], conditions, [1, 2, 5], SEED, DRAWS)
    for row in found["conditions"]:
        row["judged_by_sample"] = sampled["judge"][row["condition"]].tolist()
    texts = [{"condition": condition, "text": "def f(x):"} for condition in conditions]
    return {
        "P1": {"rows": p1, **PROTOCOL, "theory": theory, "published_theory": published_theory},
        "P2": {
            "iterations": 3, "n_prompts": 20, "conditions": p2,
            **refined, "chunks": list(range(20)), "documents": documents,
            "by_document": generated.refinement_by_document(iterated, refined, documents, SEED, DRAWS),
            "human": generated.by_iteration(human, SEED, DRAWS) | {
                "distinct_2": 0.9, "longest_repeat": 3.0,
                "repeated_4gram_share": 0.1, "repeated_4gram_share_ci": [0.0, 0.2],
            },
            "samples": texts,
        },
        "P3": {
            "n": [1, 2, 5], "n_prompts": 20, "prompt_tokens": 128, "new_tokens": 64, "temperature": 0.8, **found,
            "chunks": list(range(20)), "documents": documents,
            "by_document": generated.best_of_by_document(sampled["model"], found, documents, SEED, DRAWS),
            "human": _human(human[0]), "judge": JUDGE | {"human": _human(human[1])},
            "judged": generated.judged(sampled, conditions, [2, 5], SEED, DRAWS),
            "equal_flops": [flops.equal_flops(SHAPE, n) for n in COUNTS], "samples": texts,
        },
        "P4": _context(p4),
        **_questions(scores),
    }  # fmt: skip


def _questions(scores):
    """Parts R and S, without what is kept from elsewhere."""
    heads = [place for place in scores.harm if place[0]]
    rng, resampler = scores.rng, bootstrap.Resampler(FULL, N_CTX, SEED, DRAWS)
    sizes = [
        scale.row(
            f"m{i}", 10**i, [{"n": 0, "ratio": 1.0}, {"n": 4, "ratio": 1.2}, {"n": 8, "ratio": 1.4 + 0.1 * i}],
            [{"layer": n % 3, "delta": 0.1 * n} for n in range(1, 7)], 8,
        )
        for i in range(4, 8)
    ]  # fmt: skip
    r3 = {
        "kept": None, "profiles": [sizes[0] | {"corpus": "drawn"}], "slopes": scale.slopes(sizes),
        "family": [
            size | {"seed": 1, "n_layer": 3, "n_head": 4, "n_embd": 48, "n_params_blocks": 99, "ppl": 20.0,
                    "shares_ci": {name: [share, share] for name, share in size["shares"].items()}}
            for size in sizes
        ],
    }  # fmt: skip

    def probe(gain):
        drawn = rng.normal(gain, 0.1, 8)
        return {"gain": drawn.tolist(), "first": [0.1] * 8, "second": [0.5] * 8}

    def case(n_heads, excess):
        noise = rng.normal(3, 0.1, 12)
        points = [
            {"tokens": 64 * i, "nll": (noise + e).tolist(), "nll_zeroed": (noise + 2 * e).tolist(),
             "nll_other": (noise + e).tolist(), "copying": probe(1.0)}
            for i, e in enumerate(excess)
        ]  # fmt: skip
        return {"arm": "all", "n_heads": n_heads, "seed": 1, "name": f"all-{n_heads}-seed1", "points": points}

    rows = recovered.table([case(0, [0.0, 0.0]), case(2, [0.5, 0.4]), case(8, [1.0, 0.4])], None, SEED, DRAWS)
    r4 = {"tokens": 64, "other": "drawn", "rows": rows, "kept": None, "kept_rows": []}
    ordered = {name: orders.at_random(heads, 2, i) for i, name in enumerate((*orders.ORDERS, "ranking", "kl_2k"))}
    plans = [Plan.of("relu", order[:n]) for own in ordered.values() for order in own for n in LADDER]
    climbed = orders.climbed(ordered, LADDER, {plan: scores.score(plan) for plan in plans}, resampler)
    s1 = {"select": [0, 1], "climb": [2], "order_tokens": 32, "ns": LADDER, "scope": "other_text", "rows": climbed}
    nlls = [scores.score(Plan.of("relu", heads[:n])) for n in LADDER]
    kl = np.abs(rng.normal(0.1, 0.05, nlls[0].shape))
    copied = beyond.copied([probe(1.0 - 0.1 * i) for i in range(len(LADDER))], SEED, DRAWS)
    rungs = []
    for n, nll, copy, other in zip(LADDER, nlls, copied, beyond.elsewhere(nlls, resampler), strict=True):
        ratio, ends = perplexity.ratio(nll, nlls[0], resampler)
        moved = beyond.moved(kl, kl < 0.1, resampler)
        rungs.append({"n_linearized": n, "ratio": ratio, "ratio_ci": ends} | moved | copy | other)
    s2 = {
        "n_tokens": FULL * N_CTX, "n_sequences": 8, "length": 16, "other": "drawn", "other_tokens": 1024,
        "rungs": rungs, **beyond.by_position(nlls, nlls[0], resampler), "kept_limit": 0.8, "told_limit": 1.1,
        "first_broken": beyond.first_break(rungs, 0.8), "first_told": beyond.first_told(rungs, 1.1),
    }  # fmt: skip
    found = {"R3": r3, "R4": r4, "S1": s1, "S2": s2}
    return {name: data | {"asked": questions.asked(name, data)} for name, data in found.items()}


def _human(ppl):
    mean, ends = bootstrap.mean_ci(ppl, SEED, DRAWS)
    return {"ppl": mean, "ppl_ci": ends, "ppl_by_prompt": ppl.tolist()}


def _context(rows):
    rises, changes, excesses = [], [], []
    for row in rows[1:]:
        named = {key: row[key] for key in ("condition", "n_linearized")}
        first, last = row["ratio"]
        gap = {"difference": last - first, "difference_ci": [last - first - 0.005, last - first + 0.005]}
        rises.append(named | {"before": 16, "longest": 64, "is_noise": False} | gap)
        changes.append(named | {"shortest": 16, "longest": 64} | gap)
        quotient = (last - 1) / (first - 1)
        ends = [quotient - 0.1, quotient + 0.1]
        excesses.append(named | {"shorter": 16, "longer": 64, "ratio": quotient, "ratio_ci": ends})
    bins, contexts = context.bins(N_CTX), context.contexts(N_CTX)

    def ratios(row, n, **more):
        """The condition at n places, its ratio falling from the first to the last."""
        own = np.linspace(*row["ratio"], n)
        return row | more | {
            "ppl": (20 * own).tolist(), "ppl_ci": [[10.0, 40.0]] * n,
            "ratio": own.tolist(), "ratio_ci": [[value - 0.01, value + 0.01] for value in own],
        }  # fmt: skip

    gaps = [{"difference": 0.0, "difference_ci": [0.0, 0.0]}, *changes]
    targets = [
        ratios(row, len(contexts), placed=placed) | {key: gap[key] for key in ("difference", "difference_ci")}
        for placed in ("start", "in place") for row, gap in zip(rows, gaps, strict=True)
    ]  # fmt: skip
    by_unit = {
        "rise_at_longest_ci": [row["difference_ci"] for row in rises],
        "longest_against_shortest_ci": [row["difference_ci"] for row in changes],
        "excess_ratios_ci": [row["ratio_ci"] for row in excesses],
    }
    return {
        "by_chunk": by_unit, "by_tokens": by_unit,
        "lengths": LENGTHS, "n_tokens": FULL * N_CTX, "conditions": rows, "rise_at_longest": rises,
        "longest_against_shortest": changes, "excess_ratios": excesses,
        "by_position": {
            "n_tokens": FULL * N_CTX, "bins": bins, "conditions": [ratios(row, len(bins)) for row in rows],
        },
        "same_targets": {"n_targets": 4 * FULL, "contexts": contexts, "conditions": targets}, "training": None,
    }  # fmt: skip


PROVENANCE = {
    "commit": None, "dirty": None, "profile": "drawn", "parameters": {}, "seed": SEED,
    "model": {"name": "drawn", "fingerprint": "0" * 64}, "corpus": {"name": "drawn", "fingerprint": "0" * 64},
    "versions": {"python": "3", "torch": "2", "transformers": "5"}, "machine": {}, "device": "cpu", "backend": "naive",
    "times": {"started": "2026-01-01T00:00:00+00:00", "seconds": 1.0},
}  # fmt: skip


def write(folder, measured):
    """The folder `results/data` of a run: its sections and the two assembled files."""
    for section, data in measured.items():
        record = {"section": section, "parameters": {}, "data": data, "provenance": PROVENANCE}
        io.write_json(io.section_path(folder, section), record, "section")
    for kind, assemble in (
        ("exp10v_validation", assembled.assemble_validation),
        ("exp10p_phase3", assembled.assemble_phase3),
    ):
        io.write_json(folder / f"{kind}_drawn.json", assemble(measured, PROVENANCE), kind)
