"""The numbers that a reader should find again: the table of the README, made from a run's results.

`python -m report.readme_numbers embedded` prints it; `--write` puts it into README.md and README.ja.md.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib import files
from lib.errors import InputError
from lib.layout import ROOT
from lib.results import diff, io, query
from report import prose

READMES = {"en": ROOT / "README.md", "ja": ROOT / "README.ja.md"}
BLOCK = re.compile(r"(<!-- expected:begin -->\n).*?(<!-- expected:end -->)", re.S)
HEADS = {
    "en": ("Section", "Figure", "Expected", "95 % interval"),
    "ja": ("節", "数値", "期待される値", "95 % 信頼区間"),
}
FIGURES = {
    "V1.ppl_2k": (".2f", "baseline PPL, 2K tokens", "ベースラインの PPL（2K）"),
    "V1.ppl_full": (".2f", "baseline PPL, full tokens", "ベースラインの PPL（全体）"),
    "V2.top10[0]": ("head", "the head whose loss hurts most on 2K", "2K で失うと最も痛いヘッド"),
    "V2.top10[0].delta_ppl_full": ("+.1%", "its zero-ablation, ΔPPL on full tokens", "そのゼロ置換の ΔPPL（全体）"),
    "V4.thresholds_full[1.1]": ("d", "heads on ReLU within 1.1 × PPL", "PPL 1.1 倍以内で ReLU にできるヘッド数"),
    "V4.thresholds_full[1.5]": ("d", "heads on ReLU within 1.5 × PPL", "PPL 1.5 倍以内で ReLU にできるヘッド数"),
    "V4.cumulative[-1].ratio": (
        ".2f",
        "PPL ratio with all ranked heads on ReLU",
        "対象の全ヘッドを ReLU にした PPL 比",
    ),
    "V5.mean_diff_pct": ("+.1f", "mean difference, 2K to full, in %", "2K と全体の差の平均（%）"),
    "P2.conditions[0].ppl[-1]": (".2f", "baseline PPL, last refinement", "自己改良の最後の PPL（ベースライン）"),
    "P3.against_baseline[0].difference": (
        "+.2f",
        "PPL, best-of-N on ReLU against the unselected baseline",
        "ReLU での best-of-N と選ばないベースラインの PPL 差",
    ),
    "conclusions.counts": ("", "claims that hold / fail / cannot be told", "結論: 成立 / 不成立 / 判定できない"),
}
RAN = {
    "en": (
        "Profile `{profile}` on {corpus} (fingerprint `{print}…`), torch {torch}, {device}, {cores} cores: about"
        " {minutes} min of computing. Another Python version has another standard library,"
        " which shifts the numbers a little.\n"
    ),
    "ja": (
        "プロファイル `{profile}`、{corpus}（指紋 `{print}…`）、torch {torch}、{device}、{cores} コアで、計算はおよそ"
        " {minutes} 分。Python の版が違えば標準ライブラリも違うので、値は少しずれる。\n"
    ),
}


def value(measured: Mapping[str, Any], path: str) -> tuple[Any, Any]:
    """`(figure, interval or None)` at a path; an interval stands beside its figure, under the same key and `_ci`."""
    steps = query.parse(path)
    at, name = max(
        (i, step.name) for i, step in enumerate(steps) if isinstance(step, query.Key) and step.name.isidentifier()
    )
    beside = query.Key(f"{name}_ci")
    holder = query.lookup(measured, query.written(steps[:at]))
    interval = (*steps[:at], beside, *steps[at + 1 :]) if beside.name in holder else None
    return query.lookup(measured, path), interval and query.lookup(measured, query.written(interval))


def rows(measured: Mapping[str, Any], lang: str) -> list[tuple[str, str, str, str]]:
    """The table's rows, `(section, what, value, interval)`, as text. Raises `InputError` for a section not run."""
    found = []
    for path, (spec, en, ja) in FIGURES.items():
        try:
            figure, interval = value(measured, path)
        except query.NotThere as error:
            raise InputError(f"{error}; run the whole report first") from None
        if path == "conclusions.counts":
            shown = " / ".join(str(figure[verdict]) for verdict in ("holds", "fails", "open"))
        else:
            shown = prose.plain(figure, spec, lang)
        ends = prose.plain(interval, spec, lang) if interval and spec != "head" else "—"
        found.append((path.split(".")[0], {"en": en, "ja": ja}[lang], shown, ends))
    return found


def table(profile: str, lang: str) -> str:
    """The Markdown table of a profile's run, and under it what ran."""
    folder = diff.data_folder(profile)
    measured = io.load(folder)
    records = [io.read_json(io.section_path(folder, name), "section")["provenance"] for name in measured]
    last = max(records, key=lambda record: record["times"]["started"])
    lines = [HEADS[lang], ("---", "---", "---:", "---"), *rows(measured, lang)]
    ran = RAN[lang].format(
        profile=last["profile"],
        corpus=last["corpus"]["name"],
        print=last["corpus"]["fingerprint"][:12],
        torch=last["versions"]["torch"],
        device=last["device"],
        cores=last["machine"]["cores"],
        minutes=max(1, round(sum(record["times"]["seconds"] for record in records) / 60)),
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n" + ran


def write(profile: str, readmes: Mapping[str, Path] = READMES) -> None:
    """Puts the tables into the READMEs, between their marks; all or none."""
    texts = {}
    for lang, path in readmes.items():
        parts = BLOCK.split(path.read_text(encoding="utf-8"))
        if len(parts) != 4:
            count = len(parts) // 3
            raise InputError(f"{path.name}: {count} blocks between expected:begin and expected:end, allowed: one")
        texts[path] = parts[0] + parts[1] + table(profile, lang) + parts[2] + parts[3]
    for path, text in texts.items():
        with files.replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m report.readme_numbers", description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--lang", choices=READMES, default="en", help="the language to print in")
    parser.add_argument("--write", action="store_true", help=f"into {' and '.join(p.name for p in READMES.values())}")
    args = parser.parse_args(words)
    try:
        if args.write:
            write(args.profile)
        else:
            print(table(args.profile, args.lang), end="")
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
