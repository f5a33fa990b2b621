"""The document as a book in one language, set by Typst."""

import copy
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pylopdf_fonts_jp
import typst
from nbformat import NotebookNode

from report import citation, markdown, provenance, references
from report.charts import render
from report.document import Document
from report.prose import CHIPS_MIME, QUOTE_MIME, TABLE_MIME, VEGALITE_MIME
from report.words import OPENING_TAGS, SUBTITLE, TITLE, word

TEMPLATE = Path(__file__).parent / "template" / "book" / "book.typ"
MANY_MARKS = 3000
LINES_IN_TEXT = 6  # a longer table stands in the appendix
EMS = 49  # of 9 pt, across a page
NARROW = 9  # ems; a wider column shares what the narrow ones leave
LEAST = 5  # ems that each of them has to get
COLUMN = 340  # pixels of a chart that shares the page's width
HEIGHT = 0.65  # of a chart's on the page
LOW = 130  # pixels; a chart lower than this keeps its height
LONG_WORD = re.compile(r"\S{40}")

Piece = Callable[[list[str]], str]  # Typst markup from all finished texts
Later = Callable[[markdown.Nodes], int]  # keeps blocks to be written, and gives the number of their text


def write(document: Document, lang: str) -> bytes:
    """The book's PDF bytes in `lang`."""
    groups: list[markdown.Nodes] = []

    def later(blocks: markdown.Nodes) -> int:
        blocks = without_numbers(blocks)
        groups.append(markdown.spaced(blocks) if lang == "ja" else blocks)
        return len(groups) - 1

    abstract: list[Piece] = []
    body: list[Piece] = []
    appendix: list[Piece] = []
    rows = figure_rows(document, lang)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = body
        for cell in document.notebook.cells:
            meta = cell.metadata.report
            if meta.kind == "open":
                target = abstract if meta.name == "summary" else body
            for piece in pieces_of(cell, lang, later, folder, rows):
                target.append(piece)
            for output in cell.get("outputs", []):
                if output.metadata.report.lang == lang and is_long(output):
                    appendix.append(table_piece(output, lang, later))
        texts = markdown.to_typst(groups)
        parts = {"abstract": abstract, "body": body, "appendix": appendix}
        pieces = {name: joined(part, texts) for name, part in parts.items()}
        source = whole(document, lang, pieces)
        (folder / "book.typ").write_text(source, encoding="utf-8")
        (folder / "template.typ").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
        fonts = [str(render.font_file().parent), str(pylopdf_fonts_jp.serif_path().parent)]
        return typst.compile(
            str(folder / "book.typ"), root=str(folder), font_paths=fonts, ignore_system_fonts=True, timestamp=0
        )


def whole(document: Document, lang: str, pieces: Mapping[str, str]) -> str:
    details = {
        "lang": lang,
        "title": TITLE[lang],
        "subtitle": SUBTITLE[lang],
        "run-line": provenance.run_line(document, lang),
        "short": provenance.short(document),
        "authors": ", ".join(citation.authors()),
        "contents-title": word("contents", lang),
        "abstract-title": word("summary", lang),
        "figure-word": word("figure", lang),
        "table-word": word("table", lang),
    }
    keywords = ", ".join(map(quoted, citation.citation()["keywords"]))
    named = ", ".join(f"{key}: {quoted(value)}" for key, value in details.items()) + f", keywords: ({keywords},)"
    opening = f'#import "template.typ": *\n\n#show: report.with({named}, abstract: [\n{pieces["abstract"]}\n])'
    appendix = f"#show: appendix.with({quoted(word('appendix', lang))})\n\n{pieces['appendix']}"
    return "\n\n".join([opening, pieces["body"], bibliography(lang), colophon(document, lang), appendix])


def joined(pieces: Iterable[Piece], texts: list[str]) -> str:
    return "\n\n".join(piece(texts) for piece in pieces)


def figure_rows(document: Document, lang: str) -> dict[str, list[NotebookNode]]:
    """`{first figure's name: the figures that stand in its row}`: two that follow each other and can both be narrow,
    of one section before those of one part."""
    parts: list[list[list[NotebookNode]]] = [[]]  # part, section, figure
    opening = False
    for cell in document.notebook.cells:
        described = cell.metadata.report
        if described.kind == "open":
            opening = described.name in OPENING_TAGS
            if described.level == 2:
                parts.append([])
            parts[-1].append([])
        for output in cell.get("outputs", []):
            meta = output.metadata.report
            if meta.kind == "figure" and meta.lang == lang:
                meta.narrow = not opening and can_be_narrow(output.data[VEGALITE_MIME])
                parts[-1][-1].append(output)
    rows = []
    for part in parts:
        singles = [row for section in part for row in paired([[output] for output in section])]
        rows += paired(singles)
    return {row[0].metadata.report.name: row for row in rows}


def can_be_narrow(spec: Mapping[str, Any]) -> bool:
    """Whether a chart is one panel, and not one that says it wants the page's width."""
    return "width" in spec and not spec.get("usermeta", {}).get("wide")


def paired(rows: Iterable[list[NotebookNode]]) -> list[list[NotebookNode]]:
    """The rows, of which each narrow figure by itself has taken the next such one to its side."""
    found: list[list[NotebookNode]] = []
    for row in rows:
        if found and all(len(one) == 1 and one[0].metadata.report.narrow for one in (found[-1], row)):
            found[-1] = [*found[-1], *row]
        else:
            found.append(row)
    return found


def pieces_of(
    cell: NotebookNode, lang: str, later: Later, folder: Path, rows: Mapping[str, list[NotebookNode]]
) -> Iterator[Piece]:
    """What a cell contributes to the book: functions of the finished texts, each giving Typst markup."""
    meta = cell.metadata.report
    if meta.kind == "open":
        title = (meta.get("heading") or meta.get("titles") or {}).get(lang)
        if meta.get("section"):
            yield lambda texts: f"#metadata(none) <sec-{meta.section}>"
        if title and meta.name != "summary":
            yield lambda texts: f"#heading(level: {meta.level - 1}, {quoted(title)})"
    elif meta.kind == "cell" and cell.cell_type == "markdown" and meta.lang in (lang, None):
        number = later(meta["blocks"])
        yield lambda texts: texts[number]
    for output in cell.get("outputs", []):
        described = output.metadata.report
        if described.lang == lang:
            yield from output_pieces(output, described, lang, later, folder, rows)


def output_pieces(
    output: NotebookNode,
    meta: NotebookNode,
    lang: str,
    later: Later,
    folder: Path,
    rows: Mapping[str, list[NotebookNode]],
) -> Iterator[Piece]:
    if meta.kind == "say":
        number = later(meta["blocks"])
        yield lambda texts: texts[number]
    elif meta.kind == "chips":
        signs = ", ".join(f"({quoted(c['sign'])}, {quoted(c['label'])})" for c in output.data[CHIPS_MIME])
        yield lambda texts: f"#chips({signs})"
    elif meta.kind == "quote":
        content = output.data[QUOTE_MIME]
        text = LONG_WORD.sub("\\g<0>\N{ZERO WIDTH SPACE}", content["text"])
        yield lambda texts: f"#generated({quoted(content['label'])}, {quoted(text)})"
    elif meta.kind == "figure":
        if meta.name in rows:
            yield figure_row(rows[meta.name], lang, later, folder)
    elif meta.kind == "table" and not is_long(output):
        yield table_piece(output, lang, later)


def figure_row(row: Sequence[NotebookNode], lang: str, later: Later, folder: Path) -> Piece:
    """A figure over the page's width, a narrow one with its caption at its side, or two narrow ones side by side."""
    parts: list[Piece] = []
    for output in row:
        meta, spec = output.metadata.report, output.data[VEGALITE_MIME]
        file = picture(lowered(spec, meta.narrow), folder, f"{meta.name}-{lang}")
        image = f"image({quoted(file)}, alt: {quoted(meta.alt)}), {numbered(meta)}"
        parts.append(labelled(image, later(plain_paragraphs(meta["caption"])), f"fig-{meta.name}-{lang}"))
    form = "pair" if len(row) > 1 else "beside" if row[0].metadata.report.narrow else "across"
    return lambda texts: f"#{form}" + "".join(f"[{part(texts)}]" for part in parts)


def numbered(meta: NotebookNode) -> str:
    """A figure's number as on the page, which the text refers to, wherever the book puts it."""
    return f'numbering: (..) => "{meta.number}"'


def labelled(image: str, caption: int, label: str) -> Piece:
    return lambda texts: f"#figure({image}, caption: [{texts[caption]}]) <{label}>"


def lowered(spec: dict[str, Any], narrow: bool) -> dict[str, Any]:
    """The chart drawn anew for the book, its letters as large as on the page: lower, and as wide as a column where it
    is `narrow`, with what stands around its marks."""
    spec = copy.deepcopy(spec)
    for panel in spec.get("concat", [spec]):
        panel["height"] = max(min(panel["height"], LOW), HEIGHT * panel["height"])
    if narrow:
        stacked = {"top": {"direction": "vertical", "anchor": "start", "margin": 4}}
        spec["config"]["legend"] |= {"columns": 2, "labelLimit": COLUMN // 2, "layout": stacked}
        spec |= {"width": COLUMN, "autosize": {"type": "fit-x", "contains": "padding"}}
    return spec


def is_long(output: NotebookNode) -> bool:
    """Whether an output is a table that breaks the text off for too long."""
    if output.metadata.report.kind != "table":
        return False
    return Layout.of(output.data[TABLE_MIME]).lines > LINES_IN_TEXT


def table_piece(output: NotebookNode, lang: str, later: Later) -> Piece:
    """A short table floats, whole; a long one stands where it is, over as many pages as it takes."""
    meta, content = output.metadata.report, output.data[TABLE_MIME]
    number, note = later(plain_paragraphs(meta["caption"])), later(plain_paragraphs(meta["note"]))
    layout = Layout.of(content)
    long = layout.lines > LINES_IN_TEXT
    opening = "#[" if long else "#float["
    return lambda texts: (
        f"{opening}#show figure: set block(breakable: {str(long).lower()})\n"
        f"#figure(kind: table, {numbered(meta)}, {data_table(content, layout, texts[note])},"
        f" caption: [{texts[number]}])"
        f" <tab-{meta.name}-{lang}>]"
    )


def picture(spec: dict[str, Any], folder: Path, name: str) -> str:
    """The chart beside the book as SVG, or as PNG where it has very many marks; returns its file name."""
    if json.dumps(spec).count("{") > MANY_MARKS:
        (folder / f"{name}.png").write_bytes(render.png(spec, scale=3))
        return f"{name}.png"
    (folder / f"{name}.svg").write_text(render.svg(spec), encoding="utf-8")
    return f"{name}.svg"


@dataclass(frozen=True)
class Layout:
    """How a table is laid out: `tracks` of its columns, in Typst's words, `size` of its letters in points, `lines`."""

    tracks: str
    size: int
    lines: int

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Layout":
        columns, rows = content["columns"], content["rows"]
        heads = [_width(column["text"]) / 2 for column in columns]
        widths = [max([head, *(_cell_width(row[i]) / 2 for row in rows)]) for i, head in enumerate(heads)]
        one_line = sum(1 + has_interval(row) for row in rows)
        as_wide_as_needed = ", ".join("auto" for _ in columns)
        for size in (9, 8, 7):
            if sum(widths) <= EMS * 9 / size:
                return cls(as_wide_as_needed, size, one_line)
        wide = [i for i, width in enumerate(widths) if width > NARROW]
        # by the root of a column's mean, so that the longest does not starve the others
        roots = {i: math.sqrt(sum(_cell_width(row[i]) for row in rows) / max(1, len(rows))) for i in wide}
        for size in (9, 8, 7) if len(columns) <= 6 else (8, 7):
            left = EMS * 9 / size - sum(width for i, width in enumerate(widths) if i not in wide)
            shares = {i: left * root / sum(roots.values()) for i, root in roots.items()}
            if wide and min(shares.values()) >= LEAST:
                tracks = ", ".join(f"{roots[i]:.1f}fr" if i in wide else "auto" for i in range(len(columns)))
                return cls(tracks, size, sum(max(_lines(row[i], shares[i]) for i in wide) for row in rows))
        return cls(as_wide_as_needed, 7, one_line)


def has_interval(row: Iterable[Mapping[str, Any]]) -> bool:
    return any(cell.get("interval") for cell in row)


def _lines(cell: Mapping[str, Any], ems: float) -> int:
    return max(1, math.ceil(_cell_width(cell) / 2 / max(ems, 1)))


def data_table(content: Mapping[str, Any], layout: Layout, note: str) -> str:
    """A call of the template's `data-table`."""
    columns = content["columns"]
    cells = ", ".join(cell_markup(cell) for row in content["rows"] for cell in row)
    header = ", ".join(quoted(column["text"]) for column in columns)
    kinds = f"numeric: ({_indices(columns, 'numeric')}), ghost: ({_indices(columns, 'ghost')})"
    below = f"note: [{note}], " if note else ""
    return (
        f"data-table(columns: ({layout.tracks},), {kinds}, size: {layout.size}pt, header: ({header},), {below}{cells})"
    )


def cell_markup(cell: Mapping[str, Any]) -> str:
    interval = f"#ci({quoted(cell['interval'])})" if cell.get("interval") else ""
    return f"[#{quoted(cell['text'])}{interval}]"


def bibliography(lang: str) -> str:
    """The works as a numbered list, each with the label that references in the text lead to."""
    entries = "\n".join(
        f"+ #{quoted(work.entry)}"
        + (f" #link({quoted(work.address)})[↗]" if work.address else "")
        + f" #metadata(none) <ref-{work.key}>"
        for work in references.WORKS
    )
    return (
        f'#heading(level: 1, {quoted(word("references", lang))})\n\n#[#set text(size: 0.9em, lang: "en")\n{entries}\n]'
    )


def colophon(document: Document, lang: str) -> str:
    rows = [(word(key, lang), value) for key, value in provenance.rows(document)]
    rows.append((word("again", lang), provenance.again(document)))
    cells = ", ".join(f"[#{quoted(name)}], [#{quoted(value)}]" for name, value in rows)
    header = f"{quoted(word('item', lang))}, {quoted(word('value', lang))}"
    return (
        f"#heading(level: 1, {quoted(word('provenance', lang))})\n\n"
        f"#data-table(columns: (auto, 1fr), size: 8pt, header: ({header}), {cells})"
    )


def quoted(text: object) -> str:
    """`text` as a Typst string, which nothing in it can leave."""
    kept = "".join(c for c in str(text) if c in "\n\t" or ord(c) >= 32)
    return '"' + kept.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "    ") + '"'


def plain_paragraphs(blocks: markdown.Nodes) -> markdown.Nodes:
    return [{"t": "Plain", "c": block["c"]} if block["t"] == "Para" else block for block in blocks]


def without_numbers(blocks: markdown.Nodes) -> markdown.Nodes:
    """The blocks with links to results as plain text, and headings one level higher than on the page."""

    def link(target: str, title: str, inlines: markdown.Nodes) -> markdown.Nodes:
        outside = target.startswith("http") or target.startswith(("#fig-", "#tab-", "#sec-", "#ref-"))
        return [markdown.anchor_link(target, "", inlines)] if outside else inlines

    def header(depth: int, inlines: markdown.Nodes) -> markdown.Node:
        return {"t": "Header", "c": [max(1, depth - 1), markdown.NO_ATTRIBUTES, inlines]}

    return markdown.clean(blocks, link, header)


def _indices(columns: Iterable[Mapping[str, Any]], key: str) -> str:
    return "".join(f"{i}, " for i, column in enumerate(columns) if column[key])


def _width(text: str) -> int:
    return sum(2 if ord(c) > 0x2E80 else 1 for c in text)


def _cell_width(cell: Mapping[str, Any]) -> float:
    return max(_width(cell["text"]), 0.82 * _width(cell.get("interval", ""))) + 2
