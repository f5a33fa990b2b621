"""Sentences, tables and figures in Japanese and English at once, every number of them read from results.

A notebook binds its run once and then speaks through four functions:

    prose.bind(run)       # run.results {"V1": {...}, ...}, run.figures (Path), run.slug, run.section ("V1")
    say(ja="全体のPPLは{V1.ppl_full:.2f}。", en="PPL on all tokens is {V1.ppl_full:.2f}.")
    table("baseline", "...", "...", columns=[("ppl", "PPL", "PPL", ".2f ci")], rows="V4.cumulative")
    figure("ladder", charts.ladder(...), "...", "...", alt_ja="...", alt_en="...")
    quote(text)

Marks, in sentences, captions and alternative texts alike:

    {V1.ppl_full:.2f}                            a path into the results and a format
    {V4.cumulative[n_linearized=30].ratio:.3f}   the row where the key has that value; [layer=0,head=8] for two
    {V2.top10[0].delta_ppl_full:+.1%}            an index
    {V4.thresholds_full[1.1]}                    a key that is no identifier
    {share:.1%}                                  a keyword value of the call; also usable as [n_linearized=n]
    {fig:ladder} {tab:baseline} {sec:V4}         a reference to a figure, table or section of any notebook
    {ref:michel}                                 a work of `report/references.py`

Formats are Python's, and `head` (L0H8, of a row or a pair), `condition` (the words for relu_30), `term` (the glossary's
word for a value), `list` (all elements, joined). A pair of numbers prints as an interval, None as a dash. A keyword
value `{"ja": ..., "en": ...}` gives each language its own words; `at("V2.top10[0]")` gives a part of the results a
short name.

A typed digit is refused, names such as GPT-2 and V1 apart; so are unknown paths, different marks in the two
languages and stray braces. Strings from results and keyword values are taken for hostile and escaped.
"""

import base64
import html
import math
import os
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import yaml
from IPython.display import display

from lib.errors import InputError
from lib.files import replacing
from lib.results import query

ONLY = "EXPERIMENT10_FIGURE"  # names the one figure that is drawn, where only its file is wanted
LANGUAGES = ("ja", "en")
TABLE_MIME = "application/vnd.exp10.table+json"
QUOTE_MIME = "application/vnd.exp10.quote+json"
CHIPS_MIME = "application/vnd.exp10.chips+json"
VEGALITE_MIME = "application/vnd.vegalite.v6+json"
VEGALITE_OLD_MIME = "application/vnd.vegalite.v5+json"

MARK = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")
MATH_OR_CODE = re.compile(r"(\$\$.+?\$\$|\$[^$\n]+\$|`[^`\n]+`)", re.S)
QUOTED_LINES = 10
REFERENCES = {"fig": ("図", "Figure"), "tab": ("表", "Table"), "sec": ("", ""), "ref": ("", "")}
KNOWN_NAMES = re.compile(
    r"GPT-2|WikiText-2|[Ww]ikitext-2-raw-v1|Llama-\d|M1 Mac|\bH[12]00\b|Python 3|"
    r"(?<![A-Za-z0-9])(?:[VP][1-5]|R[1-4]|S[12])(?![0-9])|(?:Phase|フェーズ) ?[1-3](?:\.5)?(?:[-–—〜][1-3])?|"
    r"(?<![A-Za-z0-9])2K(?![A-Za-z0-9])|(?<![A-Za-z0-9])L1(?![A-Za-z0-9])|(?:float|bfloat|int)\d+|bf16|fp16|fp32|"
    r"4-gram|distinct-2|(?:仮説|[Hh]ypothesis )5|95 ?%|exp10"
)
ANOTHER_MODEL = {
    "ja": "† 公表値は別のモデル（GPT-2 small）のもので、比較の目安として並べた。",
    "en": "† Published figures are another model's (GPT-2 small) and stand here for orientation only.",
}
QUICK_ALONE = {
    "ja": "2Kは文書が少なすぎるので、その区間が表すのはこのチャンクの中での確かさだけである。",
    "en": "The 2K holds too few documents: its intervals speak of those chunks alone.",
}
STANDING_NOTES = (ANOTHER_MODEL, QUICK_ALONE)  # of many tables; a report says each once
DIGIT = re.compile(r"[0-9０-９]")

Trail = tuple[str | int, ...]
Column = tuple[str, str, str, str | Callable[[Any], str]]
Published = Sequence[float | None] | Callable[[Any], float | None]
Rows = Iterable[Any]


class Bound(Protocol):
    """What a notebook's run must have for its sentences; `results` maps sections' names to their data."""

    results: Any  # `lib.results.sections.Results`, or a part of them
    figures: Path
    slug: str
    section: str


_run: Bound | None = None


@dataclass(frozen=True)
class At:
    """A part of the results with the path that leads to it."""

    path: Trail | None
    value: Any


def bind(run: Bound) -> None:
    """Makes `run` the one whose results, figures folder and section all later calls use."""
    global _run
    _run = run


def at(path: str) -> At:
    """The part of the results at `path`, to be handed to `say` as a keyword value."""
    trail, value = find(path, {})
    return At(trail, value)


def say(ja: str, en: str, each: str | Rows | None = None, **values: Any) -> None:
    """One Markdown output per language; with `each` (a path or a list of rows) one line per row, as `{row....}`."""
    templates = {"ja": textwrap.dedent(ja).strip(), "en": textwrap.dedent(en).strip()}
    check_pair(templates)
    for lang in LANGUAGES:
        if each is None:
            text = fill(templates[lang], lang, values)
        else:
            text = "\n".join(fill(templates[lang], lang, values | {"row": row}) for row in rows_of(each))
        show({"text/markdown": text, "text/plain": plain_text(text)}, {"lang": lang})


def on_quick(ja: str = "", en: str = "") -> tuple[str, str]:
    """A caption or note in both languages, and what intervals on too few documents of the 2K can't say."""
    if quick_alone(bound().results["setup"]):
        return ja + QUICK_ALONE["ja"], f"{en} {QUICK_ALONE['en']}".strip()
    return ja, en


def quick_alone(setup: Mapping[str, Any]) -> bool:
    """Whether the 2K holds too few documents for its intervals to speak of other text."""
    return bool(setup["documents"]["resampled_quick"]["scope"] == "these_chunks")


def quick_note(ja: str = "", en: str = "") -> dict[str, str]:
    """`on_quick` as a table's `note_ja` and `note_en`."""
    return dict(zip(("note_ja", "note_en"), on_quick(ja, en), strict=True))


def table(
    name: str,
    caption_ja: str,
    caption_en: str,
    columns: Sequence[Column],
    rows: str | Rows,
    published: Mapping[str, Published] | None = None,
    note_ja: str = "",
    note_en: str = "",
    **values: Any,
) -> None:
    """A numbered table in both languages.

    `columns` are `(key, ja, en, format)`; a format that ends in ` ci` sets the interval `<key>_ci` beside the value,
    the key `head` with the format `head` names the row's layer and head, and a function gives each row a format of its
    own. `rows` is a path or a list of dicts.
    `published` maps a column's key to the published figures, a list as long as `rows` or a function of the row;
    they stand in a ghost column after it, and are marked as another model's unless this one is GPT-2 small.
    """
    captions = {"ja": caption_ja, "en": caption_en}
    notes = {"ja": note_ja, "en": note_en}
    check_pair(captions)
    check_pair(notes)
    if published and not is_gpt2_small():
        notes = {lang: f"{notes[lang]} {ANOTHER_MODEL[lang]}".strip() for lang in LANGUAGES}
    rows = rows_of(rows)
    published = dict(published or {})
    unknown = set(published) - {column[0] for column in columns}
    if unknown:
        raise InputError(f"table {name}: published figures for {sorted(unknown)}, which are not among its columns")
    for lang in LANGUAGES:
        heads: list[dict[str, Any]] = []
        cells: list[list[dict[str, Any]]] = [[] for _ in rows]
        for key, ja, en, spec in columns:
            specs = [spec(row.value) if callable(spec) else spec for row in rows]
            column = [cell_of(row, key, own, lang) for row, own in zip(rows, specs, strict=True)]
            numeric = all(cell["numeric"] for cell in column) and bool(column)
            heads.append({"text": ja if lang == "ja" else en, "numeric": numeric, "ghost": False})
            for line, cell in zip(cells, column, strict=True):
                line.append(cell)
            if key in published:
                ghosts = published_column(name, published[key], rows)
                heads.append({"text": published_label(lang), "numeric": True, "ghost": True})
                for line, value, own in zip(cells, ghosts, specs, strict=True):
                    text = "—" if value is None else plain(value, own.removesuffix(" ci"), lang)
                    line.append({"text": text, "numeric": True} | ({} if value is None else {"exact": _exact(value)}))
        content = {
            "columns": heads,
            "rows": cells,
            "caption": fill(captions[lang], lang, values),
            "note": fill(notes[lang], lang, values),
        }
        show(
            {TABLE_MIME: content, "text/html": table_html(content), "text/plain": table_text(content)},
            {"lang": lang, "table": name},
        )


def figure(
    name: str,
    chart: Any,
    caption_ja: str,
    caption_en: str,
    alt_ja: str,
    alt_en: str,
    strings: dict[str, str] | None = None,
    **values: Any,
) -> None:
    """A numbered figure in both languages: chart, caption, alternative text; also PNG files in `run.figures`.

    `chart` is an Altair chart or its dict, in English; `report.charts.render.localise` turns its strings into Japanese,
    with `strings` as additional translations.
    """
    from report.charts import render

    if os.environ.get(ONLY, name) != name:
        return
    drawn = render.specification(chart)
    captions, alts = {"ja": caption_ja, "en": caption_en}, {"ja": alt_ja, "en": alt_en}
    check_pair(captions)
    check_pair(alts)
    for lang in LANGUAGES:
        spec = render.localise(drawn, lang, strings)
        png = render.png(spec)
        with replacing(figure_path(name, lang)) as partial:
            partial.write_bytes(png)
        alt = plain_text(fill(alts[lang], lang, values))
        bundle = {
            VEGALITE_MIME: spec,
            VEGALITE_OLD_MIME: spec,
            "image/png": base64.b64encode(png).decode(),
            "text/plain": alt,
        }
        show(bundle, {"lang": lang, "figure": name, "alt": alt, "caption": fill(captions[lang], lang, values)})


def quote(text: object, ja: str = "モデルの生成した文", en: str = "Text generated by the model", **values: Any) -> None:
    """Generated text, its first lines shown as they are and nowhere interpreted; `ja` and `en` are labels."""
    check_pair({"ja": ja, "en": en})
    for lang, label in (("ja", ja), ("en", en)):
        content = {"label": plain_text(fill(label, lang, values)), "text": beginning(visible(str(text)))}
        show({QUOTE_MIME: content, "text/plain": f"{content['label']}:\n{content['text']}"}, {"lang": lang})


SIGNS = {"holds": "✓", "fails": "✗"}


def chips(rows: list[dict]) -> None:
    """Verdicts at a glance, one chip each: rows `{label: {ja, en}, verdict}`; ✓ holds, ✗ fails, ? anything else."""
    for lang in LANGUAGES:
        content = [
            {
                "label": row["label"][lang],
                "verdict": row["verdict"],
                "word": term(row["verdict"], lang),
                "sign": SIGNS.get(row["verdict"], "?"),
            }
            for row in rows
        ]
        show(
            {CHIPS_MIME: content, "text/plain": "\n".join(f"{c['sign']} {c['label']}: {c['word']}" for c in content)},
            {"lang": lang},
        )


def figure_path(name: str, lang: str) -> Path:
    """`exp10v_<name>_<slug>.png` for V1-V5, `exp10p1_…` for P1; the Japanese twin has `_ja` before the slug."""
    section = bound().section
    family = "v" if section.startswith("V") else section.lower() if re.fullmatch(r"[PRS]\d|K", section) else ""
    twin = "_ja" if lang == "ja" else ""
    return Path(bound().figures) / f"exp10{family}_{name}{twin}_{bound().slug}.png"


def fill(template: str, lang: str, values: Mapping[str, Any]) -> str:
    """`template` as Markdown in `lang`, its marks replaced by values from the results or from `values`."""
    if template.count("{") or template.count("}"):
        stray = re.sub(r"[^{}]", "", MARK.sub("", MATH_OR_CODE.sub("", template)))
        if stray:
            raise InputError(f"a stray brace in {template!r}; marks are {{path}} or {{path:format}}")
    parts = MATH_OR_CODE.split(template)
    return "".join(p if i % 2 else MARK.sub(lambda m: _mark(m, lang, values), p) for i, p in enumerate(parts))


def check_pair(templates: Mapping[str, str]) -> None:
    """Refuses typed digits, and languages that do not carry the same marks."""
    for lang, template in templates.items():
        bare = KNOWN_NAMES.sub("", MARK.sub("", MATH_OR_CODE.sub("", template)))
        digit = DIGIT.search(bare)
        if digit:
            near = bare[max(0, digit.start() - 20) : digit.end() + 20]
            raise InputError(f"a typed digit in the {lang} text, near {near!r}; use a mark such as {{V1.ppl_full:.2f}}")
    marks = {lang: marks_of(template) for lang, template in templates.items()}
    if marks["ja"] != marks["en"]:
        odd = sorted(marks["ja"] ^ marks["en"])
        raise InputError(f"the two languages do not carry the same marks; only one has {', '.join(odd)}")


def marks_of(template: str) -> set[str]:
    """The set of paths, names and references that a template's marks use, without formats."""
    found = set()
    for path, spec in MARK.findall(MATH_OR_CODE.sub("", template)):
        found.add(f"{path}:{spec}" if path in REFERENCES else path.strip())
    return found


def find(path: str, values: Mapping[str, Any]) -> tuple[Trail | None, Any]:
    """`(trail, value)` of a path such as `V4.cumulative[n_linearized=30].ratio`; the trail of a plain value is None."""
    first, *rest = query.parse(path)
    root = query.written((first,))
    if root in values:
        value = values[root]
        trail, value = (value.path, value.value) if isinstance(value, At) else (None, value)
    elif root in bound().results:
        trail, value = (root,), bound().results[root]
    else:
        allowed = sorted(values) + sorted(bound().results)
        raise InputError(f"{path!r}: no value or section {root!r}; there are {', '.join(allowed)}")
    keys, value = query.follow(value, tuple(rest), path, lambda word: str(_literal(word, values)))
    return (None if trail is None else trail + keys), value


def anchor(trail: Trail) -> str:
    """The page's address of a result, and the name by which a hover calls it: `V4.cumulative.3.ratio`."""
    return re.sub(r"[^\w.-]", "_", ".".join(str(key) for key in trail))


def plain(value: Any, spec: str, lang: str) -> str:
    """`value` as text in `lang` by `spec`; not escaped."""
    if spec == "term":
        return term(value, lang)
    if spec == "condition":
        mode, _, heads = str(value).partition("_")
        return f"{term(mode, lang)} {heads}{'ヘッド' if lang == 'ja' else ' heads'}" if heads else term(value, lang)
    if spec == "head":
        layer, head = (value["layer"], value["head"]) if isinstance(value, dict) else value
        return f"L{layer}H{head}"
    if spec == "list" or spec.startswith("list "):
        joint = "、" if lang == "ja" else ", "
        return joint.join(plain(v, spec[5:], lang) for v in value)
    if value is None:
        return "—"
    if isinstance(value, bool):
        raise InputError("a truth value has no number; use the format `term` or words of your own")
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise InputError(f"a list of {len(value)} has no format {spec!r}; use an index, `head` or `list`")
        return f"[{plain(value[0], spec, lang)}, {plain(value[1], spec, lang)}]"
    if isinstance(value, dict):
        if set(value) == set(LANGUAGES):
            return value[lang]
        raise InputError(f"a dict has no format {spec!r}; go on to one of {', '.join(map(str, value))}")
    if isinstance(value, str):
        return visible(value)
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(float(value), "—")
    try:
        return format(value, spec).replace("-", "−")
    except ValueError as error:
        raise InputError(f"format {spec!r} does not fit {value!r}: {error}") from None


def term(value: object, lang: str) -> str:
    """The glossary's word for a value of the results."""
    key = str(value).lower()
    if key not in glossary():
        raise InputError(f"no term {key!r} in report/glossary.yaml")
    return glossary()[key][lang]


@cache
def glossary() -> dict[str, dict[str, str]]:
    """Terms of the report: `{id: {ja, en, avoid_ja?, avoid_en?}}`."""
    return yaml.safe_load(Path(__file__).with_name("glossary.yaml").read_text(encoding="utf-8"))


def escape(text: str) -> str:
    """`text` as inert Markdown: one line, every ASCII punctuation mark escaped."""
    line = " ".join(visible(text).split())
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", line)


def visible(text: str) -> str:
    """`text` without control and invisible formatting characters, line feeds and tabs apart."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))


def plain_text(markdown: str) -> str:
    """Markdown of this module's own making as plain text: links lose their targets, escapes their backslashes."""
    text = re.sub(r"(?<!\\)\[((?:\\.|[^\]\\])*)\]\((?:\\.|[^()\\])*\)", r"\1", markdown)
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text).replace("`", "").replace("**", "")


def beginning(text: str) -> str:
    """The first `QUOTED_LINES` lines, with an ellipsis where that is not all."""
    lines = text.split("\n")
    return text if len(lines) <= QUOTED_LINES else "\n".join([*lines[:QUOTED_LINES], "…"])


def rows_of(rows: str | Rows) -> list[At]:
    """`rows` as a list of `At`: a path's rows, or those dicts of the results that are given themselves."""
    if isinstance(rows, str):
        trail, value = find(rows, {})
        return [At((*(trail or ()), i), row) for i, row in enumerate(value)]
    places = dict(_places(bound().results, ()))
    return [row if isinstance(row, At) else At(places.get(id(row)), row) for row in rows]


def cell_of(row: At, key: str, spec: str, lang: str) -> dict[str, Any]:
    """One table cell: its text, and the path and exact value where it is a number of the results."""
    spec, with_interval = spec.removesuffix(" ci"), spec.endswith(" ci")
    if spec == "head":
        return {"text": plain(row.value, "head", lang), "numeric": False}
    value, trail = row.value, row.path
    for part in key.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise InputError(f"table column {key!r}: the row has only {', '.join(map(str, row.value))}")
        trail = None if trail is None else (*trail, int(part) if isinstance(part, int) else part)
    cell = {"text": plain(value, spec, lang), "numeric": _is_number(value)}
    if with_interval:
        interval = row.value.get(f"{key}_ci")
        cell["interval"] = "" if interval is None else plain(interval, spec, lang)
        cell["interval_exact"] = interval if interval is None else [*map(_plain_number, interval)]
    if _is_number(value) and value is not None:
        cell["exact"] = _exact(value)
        if trail is not None:
            cell["path"] = anchor(trail)
    return cell


def published_label(lang: str) -> str:
    """The head of a column of published figures, with a dagger where this run's model is another."""
    return ("公表値" if lang == "ja" else "published") + ("" if is_gpt2_small() else "†")


def is_gpt2_small() -> bool:
    """Whether the published figures are of the model that this run measured."""
    return bool(bound().results.get("setup", {}).get("model", {}).get("is_gpt2_small", False))


def published_column(name: str, figures: Published, rows: Sequence[At]) -> list[Any]:
    if callable(figures):
        return [figures(row.value) for row in rows]
    if len(figures) != len(rows):
        raise InputError(f"table {name}: {len(figures)} published figures for {len(rows)} rows; use None for a gap")
    return list(figures)


def table_html(content: Mapping[str, Any]) -> str:
    """The table for Jupyter; the report builds its own."""
    heads = "".join(f'<th scope="col">{html.escape(head["text"])}</th>' for head in content["columns"])
    lines = []
    for row in content["rows"]:
        texts = [html.escape(" ".join(filter(None, (cell["text"], cell.get("interval"))))) for cell in row]
        lines.append(f'<tr><th scope="row">{texts[0]}</th>' + "".join(f"<td>{t}</td>" for t in texts[1:]) + "</tr>")
    caption = html.escape(" ".join(filter(None, (plain_text(content["caption"]), plain_text(content["note"])))))
    return f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def table_text(content: Mapping[str, Any]) -> str:
    lines = ["\t".join(head["text"] for head in content["columns"])]
    return "\n".join(lines + ["\t".join(cell["text"] for cell in row) for row in content["rows"]])


def show(bundle: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    if ONLY in os.environ:
        return
    display(bundle, raw=True, metadata=metadata)


def bound() -> Bound:
    """The run that `bind` was given."""
    if _run is None:
        raise InputError("prose has no run; call prose.bind(run) first")
    return _run


def _mark(match: re.Match[str], lang: str, values: Mapping[str, Any]) -> str:
    path, spec = match.group(1).strip(), match.group(2) or ""
    if path in REFERENCES:
        kind = REFERENCES[path][LANGUAGES.index(lang)]
        if not re.fullmatch(r"[A-Za-z]\w*", spec):
            raise InputError(f"a reference to {spec!r}; names are letters, digits and underscores")
        return f"[{kind} {spec.replace('_', '-')}](#{path}-{spec})" if kind else f"[{spec}](#{path}-{spec})"
    trail, value = find(path, values)
    text = plain(value, spec, lang)
    if value is None or not _is_number(value):
        return escape(text)
    text = re.sub(r"[\[\]]", r"\\\g<0>", text)
    target = "cell" if trail is None else anchor(trail)
    name = re.sub(r"[^\w.\[\]=,-]", "_", path) if trail is None else target
    return f'[{text}](#{target} "{name} = {_exact(value)}")'


def _literal(text: str, values: Mapping[str, Any]) -> Any:
    value = values.get(text, text)
    return value.value if isinstance(value, At) else value


def _is_number(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) == 2 and all(_is_number(v) for v in value)
    return value is None or (hasattr(value, "__float__") and not isinstance(value, (bool, str)))


def _exact(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{_exact(value[0])}, {_exact(value[1])}]"
    return "—" if value is None else repr(_plain_number(value))


def _plain_number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _places(value: Any, trail: Trail) -> Iterator[tuple[int, Trail]]:
    """`(id, path)` of every dict inside the results."""
    if isinstance(value, dict):
        yield id(value), trail
        for key, inner in value.items():
            yield from _places(inner, (*trail, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _places(inner, (*trail, index))
