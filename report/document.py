"""The executed notebooks of a profile as one document: merged in reading order, numbered, cross-referenced, cleaned.

The document is a notebook again, so that nbconvert can export it. What the exporters need is in the metadata of its
cells and outputs under `report`; texts are there as cleaned pandoc blocks until `page` or `book` writes them.
"""

import copy
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from lib.errors import InputError, first_line
from report import explorer, markdown, references
from report.prose import CHIPS_MIME, QUOTE_MIME, STANDING_NOTES, TABLE_MIME, VEGALITE_MIME
from report.words import EXPLORER_WORDS, LANGUAGES, OPENING_NOTEBOOK, OPENING_TAGS, PARTS, Part, word

REFERENCE = re.compile(r"#(fig|tab|sec|ref)-(\w+)$")
HEADING = re.compile(r"\s*(#{1,6}) ")
KIND_WORDS = {"fig": "figure", "tab": "table"}


@dataclass
class Document:
    """What page and book are made from."""

    notebook: NotebookNode
    sections: dict[str, dict[str, Any]]  # name -> {"data", "provenance", "parameters"}
    headings: list[markdown.Heading] = field(default_factory=list)
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)  # ("fig", name) -> number
    makers: dict[str, tuple[str, str]] = field(default_factory=dict)  # section -> its cell's (anchor, label)
    referenced: set[str] = field(default_factory=set)  # anchors of results that some text links to
    ladders: list[dict[str, Any]] = field(default_factory=list)  # what the explorer shows
    without: Collection[str] = ()  # sections that stand as not measured

    @property
    def setup(self) -> dict[str, Any]:
        return self.sections.get("setup", {}).get("data", {})


def load(notebooks_folder: Path | str, results_folder: Path | str, without: Collection[str] = ()) -> Document:
    """The `Document` of executed notebooks and section results. Raises `InputError` in one line for what is wrong.

    The sections in `without` stand in it as not measured, by their name and one sentence.
    """
    sections = read_sections(Path(results_folder) / "data" / "sections", without)
    notebooks = read_notebooks(Path(notebooks_folder)) | {name: not_measured() for name in without}
    document = Document(
        nbformat.v4.new_notebook(cells=[]), sections, ladders=explorer.ladders(sections), without=without
    )
    document.notebook.metadata["language_info"] = {"name": "python"}
    for name, notebook in notebooks.items():
        mark_cells(document, name, notebook)
    merge(document, notebooks)
    for i, cell in enumerate(document.notebook.cells):
        cell.id = f"cell-{i}"
    number(document)
    texts(document)
    return document


def not_measured() -> NotebookNode:
    """A notebook that stands for a section without results."""
    cells = [nbformat.v4.new_markdown_cell(word("unmeasured", lang), metadata={"tags": [lang]}) for lang in LANGUAGES]
    return nbformat.v4.new_notebook(cells=cells)


def read_sections(folder: Path, without: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(p for p in folder.glob("*.json") if p.stem not in without):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            found[path.stem] = {k: record.get(k, {}) for k in ("data", "provenance", "parameters")}
        except (ValueError, AttributeError) as error:
            raise InputError(f"{path}: damaged ({error}); run `make report` again") from None
    if not found:
        raise InputError(f"{folder}: no results of sections there; run `make report`")
    return found


def read_notebooks(folder: Path) -> dict[str, NotebookNode]:
    names = dict.fromkeys(name for part in PARTS for name in part.notebooks)
    found = {name: folder / f"{name}.ipynb" for name in names if (folder / f"{name}.ipynb").is_file()}
    if not found:
        raise InputError(f"{folder}: none of {', '.join(names)} there as an executed notebook; run `make report`")
    return {name: read_notebook(path) for name, path in found.items()}


def read_notebook(path: Path) -> NotebookNode:
    try:
        notebook = nbformat.v4.reads(path.read_text(encoding="utf-8"))
        nbformat.validate(notebook, version=4)
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        raise InputError(f"{path}: no notebook ({first_line(error)}); run `make report` again") from None
    return notebook


def mark_cells(document: Document, name: str, notebook: NotebookNode) -> None:
    """Gives every cell its section, language, anchor and label, and remembers which one wrote the results."""
    count = 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        lang = next((x for x in LANGUAGES if x in tags or f"lang-{x}" in tags), None)
        cell.metadata["report"] = NotebookNode(kind="cell", section=name, lang=lang)
        if cell.cell_type == "code":
            count += 1
            cell.metadata.report.update(anchor=f"cell-{name}-{count}", label=f"{name} · {count}")
            if re.search(r"\brun\.finish\(", cell.source):
                document.makers[name] = (cell.metadata.report.anchor, cell.metadata.report.label)


def merge(document: Document, notebooks: dict[str, NotebookNode]) -> None:
    """Fills the document's notebook: summary and method first, then part by part, with structural cells in between."""
    cells = document.notebook.cells
    for tag in OPENING_TAGS:
        opening = [c for c in notebooks.get(OPENING_NOTEBOOK, NotebookNode(cells=[])).cells if _opens(c) == tag]
        if opening:
            cells.append(structure("open", name=tag, level=2, heading={x: word(tag, x) for x in LANGUAGES}))
            cells.extend(_at_level(_without_title(opening), 3))
            cells.append(structure("close"))
    for part in PARTS:
        cells.extend(chapter(part, notebooks))
        if part.name == explorer.AFTER and document.ladders:
            heading = dict(zip(LANGUAGES, EXPLORER_WORDS["title"], strict=True))
            cells.append(structure("explorer", name="explorer", level=2, heading=heading))


def chapter(part: Part, notebooks: dict[str, NotebookNode]) -> Iterator[NotebookNode]:
    """The cells of a part: those of its notebooks that were run, between the structural ones."""
    present = [name for name in part.notebooks if name in notebooks]
    several = len(part.notebooks) > 1 and bool(present)
    if several:
        yield structure("open", name=part.name, level=2, heading={"ja": part.ja, "en": part.en})
    for name in present:
        own = [cell for cell in notebooks[name].cells if not _opens(cell)]
        yield structure("open", name=f"sec-{name}", section=name, level=3 if several else 2, heading=None)
        yield from _at_level(own, 3 if several else 2)
        yield structure("data", section=name)
        yield structure("close")
    if several:
        yield structure("close")


def structure(kind: str, **details: Any) -> NotebookNode:
    """A cell that holds no text but opens or closes a section, or stands for a section's results."""
    cell = nbformat.v4.new_markdown_cell("")
    cell.metadata["report"] = NotebookNode(kind=kind, lang=None, **details)
    return cell


def number(document: Document) -> None:
    """Numbers figures and tables in the order of their first appearance, the same in both languages."""
    seen = set()
    for output in outputs(document):
        for kind, key in KIND_WORDS.items():
            name = output.get("metadata", {}).get(key)
            if name is None:
                continue
            if (kind, name, output.metadata["lang"]) in seen:
                raise InputError(f"two {key}s are called {name!r}; names are unique in the whole report")
            seen.add((kind, name, output.metadata["lang"]))
            count = sum(k == kind for k, _ in document.numbers)
            document.numbers.setdefault((kind, name), count + 1)


def outputs(document: Document) -> Iterator[NotebookNode]:
    """All outputs of the document's code cells, in order."""
    for cell in document.notebook.cells:
        yield from cell.get("outputs", [])


def texts(document: Document) -> None:
    """Reads all Markdown once, cleans it, and leaves the blocks beside the outputs and cells they came from."""
    places, found = [], []
    said: set[str] = set()

    def once(note: str) -> str:
        """A table's note without what an earlier table has said for all."""
        for standing in (notes[lang] for notes in STANDING_NOTES for lang in LANGUAGES):
            if standing in note:
                note = note.replace(standing, "" if standing in said else standing).strip()
                said.add(standing)
        return note

    def add(holder: NotebookNode, key: str, source: str, cell: NotebookNode, lang: str | None, level: int = 2) -> None:
        meta = cell.metadata.report
        source = markdown.without_typed_spaces(source) if lang == "ja" else source
        places.append((holder, key))
        found.append(markdown.Text(source, lang, meta.section, meta.get("anchor", f"sec-{meta.section}"), level))

    for cell in document.notebook.cells:
        meta = cell.metadata.report
        if meta.kind != "cell":
            continue
        if cell.cell_type == "markdown":
            add(meta, "blocks", cell.source, cell, meta.lang, meta.level)
            continue
        for output in cell.get("outputs", []):
            output.setdefault("metadata", NotebookNode())["report"] = describe(document, output, cell)
            kind, lang = output.metadata.report.kind, output.metadata.get("lang")
            if kind == "say":
                add(output.metadata.report, "blocks", output.data["text/markdown"], cell, lang, meta.level)
            elif kind == "figure":
                add(output.metadata.report, "caption", output.metadata["caption"], cell, lang)
            elif kind == "table":
                add(output.metadata.report, "caption", output.data[TABLE_MIME]["caption"], cell, lang)
                add(output.metadata.report, "note", once(output.data[TABLE_MIME]["note"]), cell, lang)
    fallback_titles(document)
    level = {lang: 1 for lang in LANGUAGES}
    for (holder, key), text, blocks in zip(places, found, markdown.read(found), strict=True):
        holder[key] = tidy(document, text, blocks, level)
    collect_headings(document)
    for output in outputs(document):
        content = output.get("data", {}).get(TABLE_MIME)
        if content:
            document.referenced.update(c["path"] for row in content["rows"] for c in row if "path" in c)


def describe(document: Document, output: NotebookNode, cell: NotebookNode) -> NotebookNode:
    """What an output is: a sentence, a figure, a table, a quotation, or plain text that goes under its code."""
    meta = NotebookNode(
        kind="plain",
        lang=output.get("metadata", {}).get("lang"),
        cell=cell.metadata.report.anchor,
        label=cell.metadata.report.label,
    )
    if output.output_type != "display_data" or meta.lang not in LANGUAGES:
        return meta
    data, named = output.data, output.metadata
    if VEGALITE_MIME in data and "figure" in named:
        count = document.numbers["fig", named["figure"]]
        meta.update(kind="figure", name=named["figure"], number=count, alt=named["alt"])
    elif TABLE_MIME in data and "table" in named:
        meta.update(kind="table", name=named["table"], number=document.numbers["tab", named["table"]])
    elif QUOTE_MIME in data:
        meta.update(kind="quote")
    elif CHIPS_MIME in data:
        meta.update(kind="chips")
    elif "text/markdown" in data:
        meta.update(kind="say")
    return meta


def fallback_titles(document: Document) -> None:
    """A notebook that opens without a heading of its own in a language is headed by its name there."""
    opened: NotebookNode | None = None
    headed: set[str] = set()
    for cell in document.notebook.cells:
        meta = cell.metadata.report
        if meta.kind == "open":
            opened, headed = (None, set()) if meta.get("heading") else (meta, set())
            if opened:
                opened["titles"] = dict.fromkeys(LANGUAGES, meta.section)
        elif opened and cell.cell_type == "markdown" and cell.source.strip():
            for lang in [meta.lang] if meta.lang else LANGUAGES:
                if lang not in headed and HEADING.match(cell.source):
                    del opened["titles"][lang]
                headed.add(lang)


def tidy(document: Document, text: markdown.Text, blocks: markdown.Nodes, level: dict[str, int]) -> markdown.Nodes:
    """Cleaned blocks of one text, its links resolved, its headings at their level in the whole report."""

    def link(target: str, title: str, inlines: markdown.Nodes) -> markdown.Nodes:
        reference = REFERENCE.match(target)
        if reference:
            return [resolve(document, text, reference, inlines)]
        if target == "#cell":
            return [markdown.number_link(f"#{text.cell}", title, inlines)]
        if target.startswith("#") and target[1:].split(".")[0] in document.sections:
            document.referenced.add(target[1:])
            return [markdown.number_link(target, title, inlines)]
        if re.match(r"https?://", target):
            return [markdown.anchor_link(target, "", inlines)]
        return inlines

    def header(depth: int, inlines: markdown.Nodes) -> markdown.Node:
        wanted = max(2, min(6, text.level + depth - 1))
        for lang in [text.lang] if text.lang else LANGUAGES:
            wanted = min(wanted, level[lang] + 1) if depth > 1 else wanted
            level[lang] = wanted
        return {"t": "Header", "c": [wanted, markdown.NO_ATTRIBUTES, inlines]}

    return markdown.clean(blocks, link, header)


def resolve(
    document: Document, text: markdown.Text, reference: re.Match[str], inlines: markdown.Nodes
) -> markdown.Node:
    """A link to a figure, table or section, worded with its number."""
    kind, name = reference.groups()
    lang = text.lang or "en"
    if kind == "ref":
        if name not in references.BY_KEY:
            raise InputError(f"{text.section}: refers to the work {name!r}; there are {', '.join(references.BY_KEY)}")
        return markdown.anchor_link(f"#ref-{name}", "", [markdown.string(references.short(name, lang))])
    if kind == "sec":
        known = [
            cell.metadata.report.section
            for cell in document.notebook.cells
            if cell.metadata.report.kind == "open" and cell.metadata.report.get("section")
        ]
        if name not in known:
            raise InputError(f"{text.section}: refers to the section {name!r}; there are {', '.join(known)}")
        return markdown.anchor_link(f"#sec-{name}", "", inlines or [markdown.string(name)])
    if (kind, name) not in document.numbers and document.without:
        return {"t": "Span", "c": [markdown.NO_ATTRIBUTES, inlines]}
    if (kind, name) not in document.numbers:
        known = [n for k, n in document.numbers if k == kind]
        raise InputError(f"{text.section}: refers to the {KIND_WORDS[kind]} {name!r}; there are {', '.join(known)}")
    shown = f"{word(KIND_WORDS[kind], lang)}\N{NO-BREAK SPACE}{document.numbers[kind, name]}"
    return markdown.anchor_link(f"#{kind}-{name}-{lang}", "", [markdown.string(shown)])


def collect_headings(document: Document) -> None:
    """Names every heading and lists them in reading order, for the tables of contents."""
    count = 0
    for cell in document.notebook.cells:
        meta = cell.metadata.report
        if meta.kind in ("open", "explorer"):
            for lang in LANGUAGES:
                title = (meta.get("heading") or meta.get("titles") or {}).get(lang)
                if title:
                    anchor = f"h-{meta.name}-{lang}"
                    words = (markdown.string(title),)
                    document.headings.append(markdown.Heading(meta.level, anchor, words, lang, meta.name))
        groups = [(meta, meta.lang)] if "blocks" in meta else []
        groups += [
            (o.metadata.report, o.metadata.report.lang)
            for o in cell.get("outputs", [])
            if "blocks" in o.get("metadata", {}).get("report", {})
        ]
        for holder, lang in groups:
            for block in holder["blocks"]:
                if block["t"] == "Header":
                    count += 1
                    block["c"][1] = [f"h-{meta.section}-{count}", [], []]
                    document.headings.append(
                        markdown.Heading(
                            block["c"][0], f"h-{meta.section}-{count}", tuple(block["c"][2]), lang, meta.section
                        )
                    )


def _opens(cell: NotebookNode) -> str | None:
    """The tag by which a cell belongs to the report's opening, None for all others."""
    return next((tag for tag in OPENING_TAGS if tag in cell.metadata.get("tags", [])), None)


def _at_level(cells: Sequence[NotebookNode], level: int) -> list[NotebookNode]:
    """Copies of the cells whose first heading comes out at `level`, whatever its own depth."""
    copies = list(copy.deepcopy(cells))
    openings = (HEADING.match(cell.source) for cell in copies if cell.cell_type == "markdown")
    depth = next((len(found.group(1)) for found in openings if found), 1)
    for cell in copies:
        cell.metadata.report.level = level - depth + 1
    return copies


def _without_title(cells: Sequence[NotebookNode]) -> list[NotebookNode]:
    """The opening's cells without a title of their own, for the report heads them itself."""
    copies, titled = list(copy.deepcopy(cells)), set()
    for cell in copies:
        lang = cell.metadata.report.lang
        if cell.cell_type == "markdown" and lang not in titled:
            cell.source = re.sub(r"\A\s*#{1,2} .*\n?", "", cell.source)
            titled.add(lang)
    return copies
