"""A whole run whose figures are the published ones, with intervals of no width where the write-up gives none."""

import copy

import synthetic
from copies import copies

from lib.results.published import published
from lib.results.query import Index, Where, parse


@copies
def build():
    """`{section: data}`: the synthetic run with every published figure at its place, and what follows from them."""
    found = synthetic.results(model_name="gpt2", is_gpt2_small=True)
    del found["conclusions"]
    found["V2"]["top10"] = [found["V2"]["top10"][0] | {"layer": None}]
    for figure in published()["figures"]:
        if figure["path"] and " " not in figure["path"]:
            put(found, parse(figure["path"]), figure["published"])
    _follow(found)
    sharpen(found)
    for rise in found["P4"]["rise_at_longest"]:
        rise["difference_ci"] = [None, None]  # published without an interval, as what "may be noise"
    return found


def put(data, steps, value):
    step, *rest = steps
    if isinstance(step, Where):
        wanted = {key: int(word) if word.isdigit() else word for key, word in step.wanted}
        rows = [row for row in data if wanted.items() <= row.items()]
        if not rows:
            rows = [copy.deepcopy(data[-1]) | wanted]
            data.append(rows[0])
        put(rows[0], rest, value)
        return
    key = step.number if isinstance(step, Index) else step.name
    if rest:
        put(data[key], rest, value)
    else:
        data[key] = value


def sharpen(data):
    """Every interval becomes the figure itself, twice."""
    if isinstance(data, list):
        for row in data:
            sharpen(row)
    elif isinstance(data, dict):
        for key, value in data.items():
            if f"{key}_ci" in data:
                data[f"{key}_ci"] = exactly(value)
            sharpen(value)


def exactly(value):
    if isinstance(value, dict):
        return {key: exactly(inner) for key, inner in value.items()}
    return [exactly(inner) for inner in value] if isinstance(value, list) else [value, value]


def _follow(found):
    """What the write-up implies and does not print: heads that give its counts and means, ranks, paired differences."""
    phases, v2, v3, p3 = found["phases"], found["V2"], found["V3"], found["P3"]
    zero = phases["zero"]
    for row in zero["heads"]:
        row["delta"] = zero["layer_means"][row["layer"]]
    for i, row in enumerate(phases["relu"]["heads"]):
        row["delta"] = 0.002 if i < phases["relu"]["summary"]["under_1pct"] else 0.03
    v2["top10"] = [row for row in v2["top10"] if row["layer"] is not None]
    v2["spearman"] = 1 - 6 * sum((row["rank_2k"] - row["rank_full"]) ** 2 for row in v2["top10"]) / 990
    for row in v2["top10"]:
        row["rank_all"] = row["rank_full"]
    for span in ("2k", "full"):
        v3[f"constant_share_{span}"] = 1 - v3[f"mean_delta_ppl_{span}"] / v3[f"zero_delta_ppl_{span}"]
    v3["constant_share_change"] = v3["constant_share_full"] - v3["constant_share_2k"]
    for row in p3["conditions"]:
        row["expected"] = list(row["first_n"])
    base = p3["conditions"][0]["expected"][0]
    for gap in p3["against_baseline"]:
        own = next(row for row in p3["conditions"] if row["condition"] == gap["condition"])
        gap["difference"] = own["expected"][-1] - base
    for row in found["P2"]["conditions"]:
        row["repeated_4gram_share"] = [0.2, 0.6, 0.8]
    _pair(found["P2"], found["P4"])


def _pair(p2, p4):
    """Differences between the published means, which were published without their prompts."""
    ppl = {row["condition"]: row["ppl"] for row in p2["conditions"]}
    for row in p2["falls"]:
        row["difference"] = ppl[row["condition"]][row["iteration"] - 1] - ppl[row["condition"]][0]
    for row in p2["gaps"]:
        row["relative"] = ppl[row["condition"]][row["iteration"] - 1] / ppl["baseline"][row["iteration"] - 1] - 1
    ratio = {row["condition"]: dict(zip(p4["lengths"], row["ratio"], strict=True)) for row in p4["conditions"]}
    for row in p4["excess_ratios"]:
        own = ratio[row["condition"]]
        row["ratio"] = (own[row["longer"]] - 1) / (own[row["shorter"]] - 1)
    for row in p4["longest_against_shortest"]:
        own = ratio[row["condition"]]
        row["difference"] = own[row["longest"]] - own[row["shortest"]]
