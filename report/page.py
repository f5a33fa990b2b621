"""The document as one self-contained HTML page: no request to anywhere, a strict content-security policy inside."""

import base64
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from markupsafe import Markup
from nbconvert import HTMLExporter, TemplateExporter
from nbconvert.exporters.html import WidgetsDataTypeFilter
from nbconvert.filters import Highlight2HTML
from nbformat import NotebookNode
from traitlets.config import Config

from report import citation, explorer, markdown, provenance, references, reproducibility
from report.charts import render
from report.document import Document
from report.prose import CHIPS_MIME, QUOTE_MIME, TABLE_MIME, VEGALITE_MIME
from report.results_view import view
from report.words import DESCRIPTION, LANGUAGES, REPRODUCIBILITY_WORDS, SUBTITLE, TITLE, WORDS, word

TEMPLATES = Path(__file__).parent / "template"
STYLE_MARK, SCRIPT_MARK, POLICY_MARK = "<!--style-->", "<!--scripts-->", "<!--policy-->"
CODE = re.compile(r'<div class=" ?highlight.*?</div>', re.S)
PLAIN_SPAN = re.compile(r'<span class="(?:n|nn|o|p|w|fm|bp)">([^<]*)</span>')  # of which the style says nothing
EXTRA_GLYPHS = "".join(map(chr, range(0x20, 0x7F))) + "−–—×→·…’“”、。「」()％◐ΔαβγρΩ≤≥±∞ "


def write(document: Document, files: list[dict[str, Any]], playground: str = "") -> str:
    """The page's HTML text. `files` are `[{path, bytes, digest}]` of what lies beside it; `playground` is the address
    of the page of `report.playground`, empty where there is none."""
    render_texts(document)
    specs = chart_data(document)
    config = Config()
    own = [VEGALITE_MIME, TABLE_MIME, QUOTE_MIME, CHIPS_MIME]
    config.HTMLExporter.display_data_priority = [*own, "text/markdown", "text/plain"]
    exporter = PageExporter(config=config, template_name="page", extra_template_basedirs=[str(TEMPLATES)])
    resources = {
        "page": {
            "words": {key: dict(zip(LANGUAGES, pair, strict=True)) for key, pair in WORDS.items()},
            "title": TITLE,
            "subtitle": SUBTITLE,
            "description": DESCRIPTION,
            "authors": citation.authors(),
            "works": references.WORKS,
            "reproducibility": answered(document),
            "schema_org": Markup(script_json(citation.schema_org(DESCRIPTION["en"], provenance.date(document)))),
            "short": provenance.short(document),
            "what_ran": {lang: provenance.what_ran(document, lang) for lang in LANGUAGES},
            "date": provenance.date(document),
            "contents": {lang: contents(document, lang) for lang in LANGUAGES},
            "results": {
                name: Markup(view(name, section["data"], document.referenced))
                for name, section in document.sections.items()
            },
            "codes": codes(document),
            "anchors": document.referenced,
            "makers": document.makers,
            "files": files,
            "explorer": explorer.for_page(document.ladders),
            "playground": playground,
            "provenance": provenance.rows(document),
            "again": provenance.again(document),
            "policy_mark": Markup(POLICY_MARK),
            "style_mark": Markup(STYLE_MARK),
            "script_mark": Markup(SCRIPT_MARK),
        }
    }
    html, _ = exporter.from_notebook_node(document.notebook, resources=resources)
    html = CODE.sub(lambda block: PLAIN_SPAN.sub(r"\1", block[0]), html)
    return with_assets(html, specs, sizes(document), provenance.about(document), document.ladders)


class Uncopied(NotebookNode):
    """A notebook that `copy.deepcopy` leaves as it is."""

    def __deepcopy__(self, memo: Any) -> "Uncopied":
        return self


class PageExporter(HTMLExporter):
    """nbconvert's, without its preprocessors, which would copy the document and change nothing, and without its last
    pass: that parses the whole page anew, for pictures that have no description."""

    def _preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        return nb, resources

    def from_notebook_node(self, nb: NotebookNode, resources: Any = None, **kw: Any) -> Any:
        resources = self._init_resources(resources)
        widgets = WidgetsDataTypeFilter(notebook_metadata=self._nb_metadata, parent=self, resources=resources)
        self.register_filter("highlight_code", Highlight2HTML(pygments_lexer="python", parent=self))
        self.register_filter("filter_data_type", widgets)
        return TemplateExporter.from_notebook_node(self, Uncopied(nb), resources, **kw)


def answered(document: Document) -> dict[str, Any]:
    """What the page's section on reproducibility shows, for this run."""
    found: dict[str, list[reproducibility.Answer]] = {}
    for answer in reproducibility.answers({name: section["data"] for name, section in document.sections.items()}):
        found.setdefault(answer.group, []).append(answer)
    words = {key: dict(zip(LANGUAGES, pair, strict=True)) for key, pair in REPRODUCIBILITY_WORDS.items()}
    return {"words": words, "answers": found}


def render_texts(document: Document) -> None:
    """Leaves every text's HTML beside its blocks, and each cell's plain outputs at the cell."""
    places, groups = [], []
    for cell in document.notebook.cells:
        holders = [cell.metadata.report, *(o.metadata.report for o in cell.get("outputs", []))]
        for holder in holders:
            for key, target in (("blocks", "html"), ("caption", "html"), ("note", "note_html")):
                if key in holder:
                    inline = key != "blocks"
                    places.append((holder, target))
                    groups.append(inlines_of(holder[key]) if inline else holder[key])
        if cell.cell_type == "code":
            plain = [o for o in cell.outputs if o.metadata.report.kind == "plain"]
            cell.metadata.report.plain_outputs = [text for text in map(plain_text, plain) if text.strip()]
    for (holder, target), html in zip(places, markdown.to_html(groups), strict=True):
        holder[target] = Markup(html)


def inlines_of(blocks: markdown.Nodes) -> markdown.Nodes:
    """A caption's blocks as one run of text without a paragraph around it."""
    return [{"t": "Plain", "c": block["c"]} if block["t"] == "Para" else block for block in blocks]


def plain_text(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return output.text if output.name == "stdout" else ""
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}"
    return output.get("data", {}).get("text/plain", "")


def chart_data(document: Document) -> dict[str, dict[str, Any]]:
    """`{id: specification}` of all figures; leaves each one's drawing, as inline SVG, beside it."""
    specs = {}
    for cell in document.notebook.cells:
        for output in cell.get("outputs", []):
            meta = output.metadata.report
            if meta.kind == "figure":
                meta.chart = f"chart-{meta.name}-{meta.lang}"
                specs[meta.chart] = output.data[VEGALITE_MIME]
                meta.drawing = Markup(drawing(output.data[VEGALITE_MIME], meta.chart))
    return specs


def drawing(spec: dict[str, Any], name: str) -> str:
    """The chart as SVG to stand in the page: its ids are made its own, its size is left to the page's style."""
    text = render.svg(spec)
    ids = re.findall(r'id="(\w+)"', text)
    for own in ids:
        text = re.sub(rf'(id="|#){own}\b', rf"\g<1>{name}-{own}", text)
    return re.sub(r' style="[^"]*"', "", text)


def sizes(document: Document) -> str:
    """A style rule for each chart, so that its place has its size before its drawing has been read."""
    rules = []
    for cell in document.notebook.cells:
        for output in cell.get("outputs", []):
            if output.metadata.report.kind == "figure":
                meta = output.metadata.report
                width, height = render.size(meta.drawing)
                rules.append(
                    f'[data-chart="{meta.chart}"]:not([data-drawn])'
                    f"{{width:min(100%,{width}px);aspect-ratio:{width}/{height}}}\n"
                )
    return "".join(rules)


def codes(document: Document) -> dict[str, list[NotebookNode]]:
    """`{section: its code cells}` in their order, the summary's with the section that they come from."""
    found: dict[str, list[NotebookNode]] = {}
    for cell in document.notebook.cells:
        if cell.cell_type == "code":
            found.setdefault(cell.metadata.report.section, []).append(cell)
    return found


def contents(document: Document, lang: str) -> list[dict[str, Any]]:
    """Entries of the table of contents: headings of levels 2 and 3."""
    entries = [
        {"level": h.level, "anchor": h.anchor, "text": h.text}
        for h in document.headings
        if h.lang in (lang, None) and h.level <= 3
    ]
    return [
        *entries,
        {"level": 2, "anchor": f"h-references-{lang}", "text": word("references", lang)},
        {"level": 2, "anchor": f"h-reproducibility-{lang}", "text": reproducibility.spoken("title", lang)},
        {"level": 2, "anchor": f"h-files-{lang}", "text": word("files", lang)},
        {"level": 2, "anchor": f"h-provenance-{lang}", "text": word("provenance", lang)},
    ]


def with_assets(
    html: str,
    specs: dict[str, dict[str, Any]],
    chart_sizes: str,
    about: dict[str, str | None],
    ladders: list[dict[str, Any]],
) -> str:
    """The page with style, data, scripts and the policy that names exactly these by their hashes."""
    style = (TEMPLATES / "page" / "style.css").read_text(encoding="utf-8") + chart_sizes
    charts = json.dumps(specs, ensure_ascii=False)
    style = font_face(html + charts) + style
    head = script("head")
    names = ["unfold", "page", "charts", "menus", "previews", "search", *(["explorer"] if ladders else [])]
    scripts = [script(name) for name in names]
    data: dict[str, Any] = {"titles": TITLE, "about": about}
    data |= {"explore-data": explorer.for_page(ladders)} if ladders else {}
    blocks = [
        f'<script type="application/json" id="{name}">{script_json(value)}</script>' for name, value in data.items()
    ]
    for name, text in (("charts", charts), ("vega", bundle())):
        packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
        blocks.append(f'<script type="text/plain" id="{name}">{packed}</script>')
    blocks += [f"<script>{source}</script>" for source in scripts]
    return (
        html.replace(
            POLICY_MARK,
            f'<meta http-equiv="Content-Security-Policy" content="{policy([head, bundle(), *scripts], style)}">',
            1,
        )
        .replace(STYLE_MARK, f"<script>{head}</script>\n<style>{style}</style>", 1)
        .replace(SCRIPT_MARK, "\n".join(blocks), 1)
    )


def policy(scripts: Iterable[str], style: str) -> str:
    """The content-security policy of a page that runs exactly these scripts and asks nothing of any network."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(source_hash, scripts))}",
            f"style-src {source_hash(style)}",
            "img-src data:",
            "font-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def script(name: str) -> str:
    return (TEMPLATES / "page" / f"{name}.js").read_text(encoding="utf-8")


def source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def script_json(value: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


@cache
def bundle() -> str:
    """Vega-Embed with all that it needs, as one script."""
    code = vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed")
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def font_face(text: str) -> str:
    """The Japanese font cut down to the letters that occur, as a style rule."""
    font = TTFont(render.font_file(), recalcTimestamp=False)
    options = Options()
    options.layout_features = ["kern", "palt"]
    options.hinting = False
    options.notdef_outline = True
    options.name_IDs = [1, 2]
    options.recalc_timestamp = False
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=sorted(ord(c) for c in set(text + EXTRA_GLYPHS) if ord(c) > 0x1F))
    subsetter.subset(font)
    font.flavor = "woff"
    buffer = io.BytesIO()
    font.save(buffer)
    address = "data:font/woff;base64," + base64.b64encode(buffer.getvalue()).decode()
    return f'@font-face{{font-family:"{render.FONT}";src:url({address}) format("woff")}}\n'
