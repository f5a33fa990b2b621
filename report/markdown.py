"""Markdown of the notebooks to HTML and Typst, through one cleaned pandoc tree.

Everything that could act is taken out of the tree: raw HTML and Typst, images, attributes, and links to anywhere but
the page and the web. pandoc is started once for reading and once for each form, whatever the number of texts.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pypandoc

from lib.errors import InputError

READER = (
    "markdown-raw_attribute-raw_tex-raw_html-citations-native_divs-native_spans-markdown_in_html_blocks"
    "-auto_identifiers-implicit_figures-yaml_metadata_block+east_asian_line_breaks"
)
UNFILLED = re.compile(r"(?<!\\)\{[A-Za-z_][\w.]*(?:\[[^\]]*\][\w.]*)*(?::[^{}\s]*)?\}")
NO_ATTRIBUTES = ["", [], []]
WIDE = "ぁ-んァ-ヶー一-龠々"
# Between Japanese and anything else the typesetters set a narrow space of their own.
LETTERS = r"A-Za-z0-9\u0391-\u03c9|`"
TYPED_SPACE = re.compile(rf"(?<=[{WIDE}])(?: |\n)(?=[{LETTERS}{{\[(+−])|(?<=[{LETTERS}%\])ᵀ])(?: |\n)(?=[{WIDE}])")


Node = dict[str, Any]  # of pandoc's tree: `{t: kind, c: content}`
Nodes = list[Node]
Link = Callable[[str, str, Nodes], Nodes]
Header = Callable[[int, Nodes], Node]


@dataclass(frozen=True)
class Text:
    """One Markdown text and where it stands: its language (None for both), section, cell anchor and heading level."""

    source: str
    lang: str | None
    section: str
    cell: str
    level: int = 2


@dataclass(frozen=True)
class Heading:
    level: int
    anchor: str
    blocks: tuple[Node, ...]
    lang: str | None
    section: str

    @property
    def text(self) -> str:
        return plain(self.blocks)


def read(texts: Sequence[Text]) -> list[Nodes]:
    """The cleaned pandoc blocks of each text. Raises `InputError` for a mark that was left unfilled."""
    for text in texts:
        refuse_marks(text)
    mark = "REPORTMARK" + hashlib.sha256("\0".join(t.source for t in texts).encode()).hexdigest()[:20]
    whole = "\n\n".join(f"{t.source.rstrip()}\n\n{mark}" for t in texts)
    groups = split(json.loads(pandoc(whole, READER, "json"))["blocks"], mark)
    if len(groups) != len(texts):
        groups = [json.loads(pandoc(t.source, READER, "json"))["blocks"] for t in texts]
    return groups


def without_typed_spaces(source: str) -> str:
    """Japanese Markdown without spaces and line ends between Japanese and other letters, headings apart."""
    parts = source.split("\n\n")
    return "\n\n".join(part if part.lstrip().startswith("#") else TYPED_SPACE.sub("", part) for part in parts)


JAPANESE = "\u3041-\u3096\u30a1-\u30fa\u30fc\u3005\u4e00-\u9fff"
BOUNDARY = re.compile(
    rf"(?<=[{JAPANESE}])(?=[A-Za-z0-9+\u2212\u00b1\u0394\u03b1$|])|(?<=[A-Za-z0-9%\u00d7+|])(?=[{JAPANESE}])"
)
GAP = "\u2005"  # a quarter of an em, the space between Japanese and Latin type


def spaced(blocks: Nodes) -> Nodes:
    """The blocks with the same gap at every boundary between Japanese and Latin letters, digits or signs.

    A boundary may lie between two inlines; code and mathematics stay as they are.
    """
    last = ""

    def walk(node: Any) -> Any:
        nonlocal last
        if isinstance(node, list):
            return [walk(inner) for inner in node]
        if not isinstance(node, dict):
            return node
        kind = node.get("t")
        if kind == "Str":
            text = BOUNDARY.sub(GAP, last + node["c"])[len(last) :] if last else BOUNDARY.sub(GAP, node["c"])
            last = node["c"][-1:] or last
            return {"t": "Str", "c": text}
        if kind in ("Code", "Math", "CodeBlock", "RawInline", "RawBlock"):
            last = ""
            return node
        if kind in ("Space", "SoftBreak", "LineBreak", "Para", "Plain", "Header"):
            last = ""
        return {key: walk(value) for key, value in node.items()} if "c" in node else node

    return walk(blocks)


def refuse_marks(text: Text) -> None:
    """A `{path}` outside code and mathematics is a number that nobody filled in."""
    bare = re.sub(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$", "", text.source, flags=re.S)
    found = UNFILLED.search(bare)
    if found:
        raise InputError(f"{text.section}: the mark {found.group()} was left unfilled; state it through say(...)")


def split(blocks: Nodes, mark: str) -> list[Nodes]:
    """Groups of blocks that each end with the paragraph `mark`."""
    groups: list[Nodes] = []
    current: Nodes = []
    for block in blocks:
        if block["t"] == "Para" and block["c"] == [{"t": "Str", "c": mark}]:
            groups.append(current)
            current = []
        else:
            current.append(block)
    return groups if not current else groups + [current]


def to_html(groups: list[Nodes]) -> list[str]:
    """HTML of each group of blocks; mathematics as MathML."""
    return _write(groups, "html5", "--mathml")


def to_typst(groups: list[Nodes]) -> list[str]:
    """Typst markup of each group of blocks."""
    return _write(groups, "typst")


def _write(groups: list[Nodes], form: str, *options: str) -> list[str]:
    if not groups:
        return []
    mark = "REPORTMARK" + hashlib.sha256(json.dumps(groups).encode()).hexdigest()[:20]
    end = {"t": "Para", "c": [{"t": "Str", "c": mark}]}
    blocks = [block for group in groups for block in (*group, end)]
    tree = {"pandoc-api-version": api_version(), "meta": {}, "blocks": blocks}
    whole = pandoc(json.dumps(tree), "json", form, *options)
    around = f"<p>{mark}</p>" if form == "html5" else mark
    pieces = whole.split(around)
    if len(pieces) != len(groups) + 1:
        raise InputError(f"pandoc gave {len(pieces) - 1} texts for {len(groups)}")
    return [piece.strip() for piece in pieces[:-1]]


@cache
def api_version() -> list[int]:
    return json.loads(pandoc("", "markdown", "json"))["pandoc-api-version"]


def pandoc(text: str, source: str, target: str, *options: str) -> str:
    command = [pypandoc.get_pandoc_path(), "-f", source, "-t", target, "--wrap=none", *options]
    done = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise InputError(f"pandoc: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def clean(node: Any, link: Link, header: Header) -> Any:
    """A pandoc tree without anything that acts; `link(target, title, inlines)` and `header(node)` give replacements.

    `link` returns a list of inlines, `header` a block.
    """
    if isinstance(node, list):
        cleaned = []
        for item in node:
            if isinstance(item, dict) and "t" in item:
                cleaned.extend(_clean_node(item, link, header))
            else:
                cleaned.append(clean(item, link, header))
        return cleaned
    if isinstance(node, dict):
        return {key: clean(value, link, header) for key, value in node.items()}
    return node


def _clean_node(node: Node, link: Link, header: Header) -> Nodes:
    """The nodes that take the place of one node."""
    kind: str = node["t"]
    content: Any = node.get("c")
    if kind in ("RawInline", "RawBlock"):
        return []
    if kind == "Image":
        return clean(content[1], link, header)
    if kind == "Link":
        return link(content[2][0], content[2][1], clean(content[1], link, header))
    if kind == "Span":
        return clean(content[1], link, header)
    if kind == "Div":
        return clean(content[1], link, header)
    if kind in ("Code", "CodeBlock"):
        return [{"t": kind, "c": [NO_ATTRIBUTES, content[1]]}]
    if kind == "Header":
        return [header(content[0], clean(content[2], link, header))]
    if kind == "Table":
        content = [
            NO_ATTRIBUTES,
            content[1],
            [[{"t": "AlignDefault"}, {"t": "ColWidthDefault"}] for _ in content[2]],
            *content[3:],
        ]
        return [{"t": kind, "c": [clean(part, link, header) for part in content]}]
    if content is None:
        return [node]
    return [{"t": kind, "c": clean(content, link, header)}]


def anchor_link(target: str, title: str, inlines: Nodes) -> Node:
    return {"t": "Link", "c": [["", [], []], inlines, [target, title]]}


def number_link(target: str, title: str, inlines: Nodes) -> Node:
    """A number that leads to its place in the results; named by that place, and no stop on the way of the Tab key."""
    attributes = ["", ["n"], [["tabindex", "-1"]]]
    return {"t": "Link", "c": [attributes, inlines, [target, title.split(" = ")[0]]]}


def string(text: str) -> Node:
    return {"t": "Str", "c": text}


def plain(node: Any) -> str:
    """The words of a pandoc tree."""
    if isinstance(node, list | tuple):
        return "".join(map(plain, node))
    if isinstance(node, dict):
        kind = node.get("t")
        content: Any = node.get("c")
        if kind == "Str":
            return content
        if kind in ("Space", "SoftBreak", "LineBreak"):
            return " "
        if kind in ("Code", "Math"):
            return content[1]
        if kind == "Quoted":
            return f"“{plain(content[1])}”"
        return plain(content) if content is not None else ""
    return ""
