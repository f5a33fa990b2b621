"""What the report says of a claim follows its verdict, in the section, the summary and the conclusion alike."""

import copy
import re
from functools import cache
from types import SimpleNamespace

import nbformat
import published_run
import pytest

from lib.analysis import head_effects, windows
from lib.claims import judging, rules, scorecard
from lib.layout import ROOT
from lib.pipeline.run import Run
from lib.results import dated
from report import prose, verdicts
from report.charts import render

HOLDS, FAILS, OPEN, NOT_MEASURED = judging.VERDICTS
SPOKEN_IN = {  # the sections that speak of a claim
    "stable_ranking": ("V2",),
    "constant_bias": ("V3", "conclusions"),
    "thresholds_within_ten": ("V5", "conclusions"),
    "quick_optimistic": ("V5", "conclusions"),
    "layer0_concentration": ("phases",),
    "heads_unequal": ("phases",),
    "bias_strengthened": ("V3",),
    "many_tokens_needed": ("V5",),
    "relu_nearly_harmless": ("V4", "conclusions"),
    "relu_best": ("phases",),
    "refinement_degenerates": ("P2", "conclusions"),
    "conditions_converge": ("P2",),
    "best_of_n_recovers": ("P3", "conclusions"),
    "best_of_n_recovers_more": ("P3",),
    "equal_flops_insufficient": ("P3", "conclusions"),
    "context_stable": ("P4", "conclusions"),
    "long_context_helps": ("P4",),
    "rise_at_longest": ("P4",),
}


@cache
def base():
    return published_run.build()


def whole(found):
    """The run with the conclusions that follow from it."""
    claims = rules.evaluate(found)
    counts = {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in judging.VERDICTS}
    return found | {
        "conclusions": {
            "claims": claims,
            "counts": counts,
            "hypothesis": rules.hypothesis(found),
            "sensitivity": rules.sensitivity(found),
            "scorecard": scorecard.score(found),
        }
    }


@cache
def drawing_code(section):
    """The notebook's cells that only read results, without its imports of `Run` and the one that opens the run."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{section}.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kept = [cell.source for cell in cells if not {"measure", "parameters"} & set(cell.metadata.get("tags", []))]
    source = "\n".join(kept)
    return re.sub(r"^(run = Run\(.*|from lib.pipeline.run import Run)$", "", source, flags=re.M)


@pytest.fixture
def read(monkeypatch, tmp_path):
    """`read(section, found)`: what the section's drawing cells say of a run, `{"ja": text, "en": text}`."""
    monkeypatch.setattr(render, "png", lambda spec: b"")
    monkeypatch.setattr(render, "localise", lambda chart, lang, strings=None: {})

    def draw(section, found, seen=None):
        said = {"ja": [], "en": []}

        def show(bundle, metadata):
            if seen is not None:
                seen.append((bundle, metadata))
            if "text/markdown" in bundle:
                said[metadata["lang"]].append(bundle["text/plain"])

        monkeypatch.setattr(prose, "show", show)
        run = Run.__new__(Run)
        run.section, run.results, run.figures = section, found, tmp_path
        run.parameters = {"new_tokens": 64}
        exec(compile(drawing_code(section), section, "exec"), {"run": run, "profile": "drawn"})
        return {lang: "\n".join(texts) for lang, texts in said.items()}

    return draw


def flips():
    """`(claim, verdict, what makes a run of it)` for each verdict of each claim."""

    def v2(found, verdict):
        found["V2"]["spearman_ci"] = {HOLDS: [0.9, 1.0], FAILS: [0.1, 0.5], OPEN: [0.7, 0.95]}[verdict]

    def v3(found, verdict):
        found["V3"]["constant_share_full_ci"] = {HOLDS: [0.97, 1.0], FAILS: [0.4, 0.6], OPEN: [0.9, 0.99]}[verdict]

    def thresholds(found, verdict):
        move = {HOLDS: [-10, -5], FAILS: [-30, -25], OPEN: [-20, -5]}[verdict]
        found["V4"]["cross_fit"]["shifts_ci"]["1.1"] = move

    def optimistic(found, verdict):
        found["V5"]["mean_diff_pct"] = {HOLDS: 24.6, FAILS: 1.0, OPEN: 24.6}[verdict]
        selection = {HOLDS: [-0.03, -0.01], FAILS: [0.01, 0.02], OPEN: [-0.03, 0.01]}[verdict]
        next(row for row in found["V4"]["cross_fit"]["optimism"] if row["n"] == 30)["excess_ci"] = selection

    def layer0(found, verdict):
        found["phases"]["layer0_share_ci"] = {HOLDS: [0.6, 0.8], FAILS: [0.1, 0.3], OPEN: [0.4, 0.6]}[verdict]

    def unequal(found, verdict):
        found["phases"]["alpha_ci"] = {HOLDS: [1.2, 1.5], FAILS: [0.5, 0.8], OPEN: [0.9, 1.1]}[verdict]

    def strengthened(found, verdict):
        ends = {HOLDS: [0.001, 0.003], FAILS: [-0.003, -0.001], OPEN: [-0.001, 0.003]}[verdict]
        found["V3"]["constant_share_change_ci"] = ends

    def many(found, verdict):
        found["V1"]["coverage"][0] |= {"covered": {HOLDS: 0.6, FAILS: 1.0, OPEN: 0.9}[verdict], "n_disjoint": 122}

    def harmless(found, verdict):
        delta = {HOLDS: [0.001, 0.002], FAILS: [0.03, 0.04], OPEN: [0.001, 0.04]}[verdict]
        for row in found["phases"]["relu"]["heads"]:
            row["delta_ci"] = delta

    def best(found, verdict):
        relu = {HOLDS: 104, FAILS: 20, OPEN: 68}[verdict]
        found["phases"]["mix"]["counts"] = {"relu": relu, "l1": 132 - relu, "identity": 0}

    def refinement(found, verdict):
        for row in found["P2"]["conditions"]:
            row["repeated_4gram_share_ci"][-1] = {HOLDS: [0.7, 0.9], FAILS: [0.0, 0.2], OPEN: [0.4, 0.6]}[verdict]

    def converge(found, verdict):
        for row in found["P2"]["gaps"]:
            row["relative_ci"] = {HOLDS: [-0.05, 0.05], FAILS: [0.3, 0.6], OPEN: [0.0, 0.3]}[verdict]

    def recovers(which):
        def change(found, verdict):
            found["P3"]["against_baseline"][which]["difference_ci"] = {
                HOLDS: [-6.0, -2.0],
                FAILS: [2.0, 6.0],
                OPEN: [-2.0, 2.0],
            }[verdict]

        return change

    def equal_flops(found, verdict):
        found["P3"]["equal_flops"][1]["extra_model"] = {HOLDS: 3, FAILS: 100}[verdict]

    def stable(found, verdict):
        for row in found["P4"]["excess_ratios"]:
            row["ratio_ci"] = {HOLDS: [0.8, 1.2], FAILS: [0.2, 0.4], OPEN: [0.4, 0.8]}[verdict]

    def helps(found, verdict):
        ends = {HOLDS: [-0.3, -0.1], FAILS: [0.1, 0.3], OPEN: [-0.1, 0.1]}[verdict]
        found["P4"]["longest_against_shortest"][-1]["difference_ci"] = ends

    def rises(found, verdict):
        ends = {HOLDS: [0.05, 0.2], FAILS: [-0.2, -0.1], OPEN: [-0.1, 0.2]}[verdict]
        found["P4"]["rise_at_longest"][-1]["difference_ci"] = ends

    makers = {
        "stable_ranking": v2,
        "constant_bias": v3,
        "thresholds_within_ten": thresholds,
        "quick_optimistic": optimistic,
        "layer0_concentration": layer0,
        "heads_unequal": unequal,
        "bias_strengthened": strengthened,
        "many_tokens_needed": many,
        "relu_nearly_harmless": harmless,
        "relu_best": best,
        "refinement_degenerates": refinement,
        "conditions_converge": converge,
        "best_of_n_recovers": recovers(0),
        "best_of_n_recovers_more": recovers(1),
        "equal_flops_insufficient": equal_flops,
        "context_stable": stable,
        "long_context_helps": helps,
        "rise_at_longest": rises,
    }
    for claim, change in makers.items():
        for verdict in (HOLDS, FAILS) if claim == "equal_flops_insufficient" else (HOLDS, FAILS, OPEN):
            yield pytest.param(claim, verdict, change, id=f"{claim}-{verdict}")


def squeezed(text):
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize(("claim", "verdict", "change"), flips())
def test_every_place_that_speaks_of_a_claim_uses_the_words_of_its_verdict(read, claim, verdict, change):
    found = copy.deepcopy(base())
    change(found, verdict)
    found = whole(found)
    kept = {row["id"]: row["verdict"] for row in found["conclusions"]["claims"]}
    assert kept[claim] == verdict
    for section in dict.fromkeys((*SPOKEN_IN[claim], "conclusions")):
        said = read(section, found)
        for other, words in verdicts.WORDS.items():
            if section not in SPOKEN_IN[other]:
                continue
            for sentence_of, sentences in words.items():
                for lang, sentence in zip(("ja", "en"), sentences, strict=True):
                    spoken = squeezed(sentence) in squeezed(said[lang])
                    assert spoken == (sentence_of == kept[other]), (section, other, sentence_of, lang)


@pytest.mark.parametrize("claim", verdicts.WORDS)
def test_words_of_the_verdicts_differ_and_are_sentences(claim):
    words = verdicts.WORDS[claim]
    assert set(words) == {HOLDS, FAILS, OPEN}
    for i, (end, script) in enumerate((("。", r"[ぁ-ん]"), (".", r"[A-Z]"))):
        texts = [pair[i] for pair in words.values()]
        assert all(text.endswith(end) and re.search(script, text) for text in texts)
        assert not any(a != b and a in b for a in texts for b in texts)


def test_every_claim_has_words_and_a_place():
    assert set(verdicts.WORDS) == set(SPOKEN_IN) == set(rules.IDS) - {"hypothesis_5"}


def test_a_claim_that_was_not_measured_is_said_to_be_so(monkeypatch):
    monkeypatch.setattr(prose, "_run", SimpleNamespace(results={}))
    assert verdicts.verdict("constant_bias") == NOT_MEASURED
    assert verdicts.sentence("constant_bias") == dict(zip(("ja", "en"), verdicts.UNMEASURED, strict=True))
    assert verdicts.hypothesis()["en"] == verdicts.HYPOTHESIS["not measured"][1]


HYPOTHESES = [
    ("partly rejected", {}),
    ("supported", {"equal_flops_insufficient": FAILS}),
    ("rejected", {"relu_nearly_harmless": FAILS}),
    ("rejected", {"relu_nearly_harmless": FAILS, "best_of_n_recovers": FAILS}),
    ("partly rejected", {"best_of_n_recovers": FAILS}),
    ("open", {"best_of_n_recovers": OPEN}),
    ("open", {"refinement_degenerates": OPEN}),
    ("open", {"relu_nearly_harmless": OPEN}),
]


@pytest.mark.parametrize(("kind", "given"), HYPOTHESES)
def test_hypothesis_5_in_its_kinds(read, kind, given):
    found = copy.deepcopy(base())
    change_of = {parameter.values[0]: parameter.values[2] for parameter in flips()}
    for claim, verdict in given.items():
        change_of[claim](found, verdict)
    found = whole(found)
    told = found["conclusions"]["hypothesis"]
    assert told["verdict"] == kind
    assert [reason["id"] for reason in told["reasons"]] == list(rules.REASONS)
    said = read("conclusions", found)
    for name, sentences in verdicts.HYPOTHESIS.items():
        for lang, sentence in zip(("ja", "en"), sentences, strict=True):
            assert (squeezed(sentence) in squeezed(said[lang])) == (name == kind), (name, lang)
    verdict = next(row["verdict"] for row in found["conclusions"]["claims"] if row["id"] == "hypothesis_5")
    assert verdict == {"partly rejected": HOLDS, "open": OPEN}.get(kind, FAILS)


def test_arithmetic_alone_decides_nothing():
    found = copy.deepcopy(base())
    recovery = found["P3"]["against_baseline"][0]
    recovery["difference_ci"] = [-2.0, 2.0]
    for extra in (3, 100):
        found["P3"]["equal_flops"][1]["extra_model"] = extra
        assert rules.hypothesis(found)["verdict"] == "open"


WITH_QUICK_INTERVALS = {  # figures and tables in which an interval of the 2K stands
    "phases": {"cumulative", "flops_saved", "top_heads", "paired_modes"},
    "V1": {"baseline"},
    "V2": {"top10", "missed"},
    "V3": {"focus"},
    "V4": {"ladder", "thresholds", "crossings"},
    "conclusions": {"claims"},
}


@pytest.mark.parametrize("scope", ["these_chunks", "other_text"])
@pytest.mark.parametrize("section", WITH_QUICK_INTERVALS)
def test_intervals_of_too_few_documents_say_so_where_they_stand(read, section, scope):
    found = copy.deepcopy(base())
    found["setup"]["documents"]["resampled_quick"]["scope"] = scope
    seen, told = [], {"ja": set(), "en": set()}
    read(section, whole(found), seen)
    for bundle, metadata in seen:
        name, lang = metadata.get("figure") or metadata.get("table"), metadata["lang"]
        words = metadata.get("caption", "") + bundle.get(prose.TABLE_MIME, {}).get("note", "")
        if prose.QUICK_ALONE[lang] in words:
            told[lang].add(name)
    assert told["ja"] == told["en"] == (WITH_QUICK_INTERVALS[section] if scope == "these_chunks" else set())


def test_the_kept_coverage_stands_beside_the_run_s_own(read):
    found = copy.deepcopy(base())
    record = dated.latest("coverage")
    assert record is not None
    found["V5"]["kept_coverage"] = windows.kept(record, dated.about(record, 1024 * record["text"]["n_chunks"]))
    seen = []
    said = read("V5", whole(found), seen)
    rows = {name: next(row for row in record[name]["figures"] if row["what"] == "ppl") for name in ("quick", "full")}
    for lang in ("ja", "en"):
        shown = {
            meta["table"]: bundle[prose.TABLE_MIME]
            for bundle, meta in seen
            if meta.get("lang") == lang and "table" in meta
        }
        assert len(shown["coverage"]["rows"]) == 6 and len(shown["coverage_kept"]["rows"]) == 15
        assert record["date"] in prose.plain_text(shown["coverage_kept"]["note"])
        assert "2026-11-25-coverage.json" in prose.plain_text(shown["coverage_kept"]["note"])
        assert all(f"{row['covered']:.0%}" in said[lang] for row in rows.values())
    found["V5"]["kept_coverage"], seen = None, []
    read("V5", whole(found), seen)
    assert not [meta for _, meta in seen if meta.get("table") == "coverage_kept"]


def test_all_heads_on_all_tokens_stand_beside_the_scan(read):
    found = copy.deepcopy(base())
    record = dated.latest("heads")
    assert record is not None
    n = len(found["V2"]["top10"])
    found["V2"]["kept_heads"] = head_effects.kept(record, dated.about(record, 1024 * record["text"]["n_chunks"]), n)
    seen = []
    said = read("V2", whole(found), seen)
    on_quick = sum(row["rank_2k"] <= n for row in record["rows"][:n])
    for lang in ("ja", "en"):
        (shown,) = [
            bundle[prose.TABLE_MIME]
            for bundle, meta in seen
            if meta.get("lang") == lang and meta.get("table") == "all_heads"
        ]
        assert [row[1]["text"] for row in shown["rows"]] == [
            f"L{row['layer']}H{row['head']}" for row in record["rows"][:n]
        ]
        assert record["date"] in prose.plain_text(shown["note"])
    assert f"{on_quick} of the first {n} are also among the first on the 2K" in said["en"]
    found["V2"]["kept_heads"], seen = None, []
    read("V2", whole(found), seen)
    assert not [meta for _, meta in seen if meta.get("table") == "all_heads"]


@pytest.mark.parametrize(
    ("unit", "en", "ja"),
    [
        ("tokens", "by blocks of tokens already", "トークンのブロックを単位としている"),
        ("document", "are by document", "文書を単位としており"),
        ("chunks", "", ""),
    ],
)
def test_the_table_of_verdicts_says_why_the_phases_have_no_other_unit(read, unit, en, ja):
    """Claims on the phases alone have a row by unit, or the table's note counts them and says why there is none."""
    found = copy.deepcopy(base())
    found["setup"]["documents"]["resampled_quick"]["unit"] = unit
    seen = []
    read("conclusions", whole(found), seen)
    notes = {
        metadata["lang"]: bundle[prose.TABLE_MIME]["note"]
        for bundle, metadata in seen
        if metadata.get("table") == "sensitivity"
    }
    without = [
        claim
        for claim in rules.CLAIMS
        if claim.sections == ("phases",) and not any("unit" in v for v in claim.variants)
    ]
    n, chunks = len(without), found["setup"]["quick_chunks"]
    assert without and en in notes["en"] and ja in notes["ja"]
    for note in notes.values():
        assert [int(word) for word in re.findall(r"\[(\d+)\]", note)] == ([n, chunks] if en else [])


@pytest.mark.parametrize("is_open", [True, False])
def test_what_remains_follows_from_the_verdicts(read, is_open):
    found = copy.deepcopy(base())
    if is_open:
        found["P4"]["rise_at_longest"][-1]["difference_ci"] = [-0.1, 0.2]
    else:
        found["P4"]["rise_at_longest"][-1]["difference_ci"] = [0.1, 0.2]
    found["P3"]["judge"] = None if is_open else found["P3"]["judge"]
    said = read("conclusions", whole(found))
    for lang, sentence in zip(("ja", "en"), verdicts.WORDS["rise_at_longest"][OPEN], strict=True):
        assert (squeezed(sentence) in squeezed(said[lang])) == is_open, lang
    assert ("a second judge" in said["en"]) == ("二人目の採点者がいない" in said["ja"]) == is_open
