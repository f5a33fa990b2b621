"""Hostile strings as every text that can come from outside, through page, downloads, books, playground and packs.

`data/hostile.json` holds them. Each place gets the string with a mark of its own, so that it is known to have come
through there. Page, downloads and playground are opened in a browser; where there is none, they count as failed.
"""

import contextlib
import io
import json
import re
import shutil
import subprocess
import time
import unicodedata
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
import numpy as np

from report.markdown import UNFILLED
from torture.bench import DATA, EMBEDDED, Bench, Outcome, Task, broken_off, in_place, unlike

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Nothing that a hostile string may have made stands in a page.
ALIVE = """window.fired !== undefined || !!document.querySelector(
  'img, iframe, object, embed, base, body link, body meta, main script, [onload], [onerror], [onfocus], [ontoggle],'
  + '[autofocus], [srcdoc], a[href^="javascript:" i], details[ontoggle]')
  || [...document.querySelectorAll('a')].some(link => link.hostname === '192.0.2.1')"""
READY = "document.getElementById('status').textContent.includes('heads changed')"
SECRET = "root:x:0:0"
FIGURES = {"P1": ["speed"]}  # which has the text in its tooltips
SHOWN = ("model", "corpus", "profile", "commit", "device", "backend", "system", "torch", "parameter", "sample",
         "sentence", "column", "chip", "caption", "printed")  # fmt: skip
MARKDOWN = ("caption",)
IN_BOOK = ("model", "corpus", "profile", "device", "sample", "sentence")
ESCAPES = "\x1b]0;fired\x07\x1b[31m"
BRIEF = (1, 10)


def tasks(short: bool) -> dict[str, Task]:
    return {f"{i:02}-": partial(string, text) for i, text in enumerate(strings()) if not short or i in BRIEF}


def strings() -> list[str]:
    return json.loads((DATA / "hostile.json").read_text(encoding="utf-8"))


def string(text: str, bench: Bench) -> Outcome:
    """What is wrong with each output of a build that is full of one string."""
    folder = bench.fresh("hostile")
    write(folder, text, UNFILLED.sub(r"`\g<0>`", text))
    report = folder / "report"
    outputs: dict[str, Callable[[], str | None]] = {
        "page": lambda: page(report / "report.html", text),
        "downloads": lambda: downloads(report / "report.html", text),
        "book": lambda: book(report, text),
        "playground": lambda: playground(bench.fresh("playground"), text),
        "pack": lambda: packed(bench, folder, text),
    }
    if UNFILLED.search(text):
        outputs["mark"] = lambda: unfilled(bench.fresh("mark"), text)
    found = {}
    for name, look in outputs.items():
        try:
            found[name] = look()
        except Exception as error:
            found[name] = broken_off(error)
    return found


def at(place: str, text: str) -> str:
    """The string as it stands in one place."""
    return f"{text} at:{place}"


def unfilled(folder: Path, text: str) -> str | None:
    """Markdown with the mark of a number that nobody filled in is refused in one line that names the mark."""
    from lib.errors import InputError

    try:
        write(folder, text, text)
    except InputError as error:
        said = str(error)
        return None if "\n" not in said and UNFILLED.search(said) else f"was refused with {said[:200]!r}"
    return "was not refused"


def write(folder: Path, text: str, markdown: str) -> None:
    """A report on a build in which all that can come from outside is this text, in Markdown written as `markdown`."""
    import synthetic

    from report import prose
    from report.assemble import assemble

    class Patch:
        setattr = staticmethod(setattr)

    show = prose.show
    sentence = "{setup.model.name} at:sentence"
    with mock.patch.multiple(
        synthetic, FIGURES=FIGURES, HOSTILE=text, SENTENCES=synthetic.SENTENCES | {"V1": (sentence, sentence)}
    ):
        synthetic.write_build(folder, Patch, model_name=text, sample=at("sample", f"{text}\n{text}"))
    prose.show = show
    for path in (folder / "results" / "data" / "sections").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        about = record["provenance"]
        about |= {key: at(key, text) for key in ("profile", "commit", "device", "backend")}
        about["machine"] |= {"system": at("system", text), "processor": text}
        about["versions"] |= {"python": text, "torch": at("torch", text)}
        about["model"] = about["corpus"] = {"name": text, "fingerprint": text}
        if record["section"] == "setup":
            record["data"]["model"] |= {"name": at("model", text)}
            record["data"]["corpus"] |= {"name": at("corpus", text), "split": text}
            record["data"]["parameters"] = record["data"].get("parameters", {}) | {"dataset": at("parameter", text)}
        path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    for path in (folder / "notebooks").glob("*.ipynb"):
        spoil(path, text, markdown)
    with contextlib.suppress(OSError):  # no system has files of all names
        (folder / "results" / "figures").mkdir(exist_ok=True)
        (folder / foreign_figure(text)).write_bytes(b"x")
    assemble(folder / "notebooks", folder / "results", folder / "report")


def foreign_figure(text: str) -> str:
    """A figure's place in a profile's folder, the text its name."""
    return f"results/figures/{text.replace('/', '')[:80]}.png"


def spoil(path: Path, text: str, markdown: str) -> None:
    """An executed notebook as it may come with a pack: its metadata, outputs and what its cells print are the text."""
    from report.prose import CHIPS_MIME

    notebook = nbformat.read(path, as_version=4)
    notebook.metadata |= {
        "title": text,
        "authors": [{"name": text}],
        "kernelspec": {"name": "x", "display_name": text},
        "language_info": {"name": "python", "pygments_lexer": text, "codemirror_mode": text},
    }
    for cell in notebook.cells:
        cell.metadata["name"] = text.replace("\n", " ")  # of several lines a notebook's file may have none
        if cell.cell_type == "markdown":
            cell.source += f"\n\n{markdown}\n\n<b>{markdown}</b>\n"
        for output in cell.get("outputs", []):
            if "caption" in output.get("metadata", {}):
                output.metadata["caption"] = at("caption", output.metadata["caption"] + markdown)
            for kind, content in output.get("data", {}).items():
                if kind.endswith("table+json"):
                    content["columns"][-1]["text"] = at("column", text)
    last = notebook.cells[-1]
    if last.cell_type == "code":
        chip = {key: at("chip", text) for key in ("verdict", "sign", "label", "word")}
        foreign = {"text/html": text, "image/svg+xml": text, "application/javascript": text, "text/latex": text}
        last.outputs += [
            nbformat.v4.new_output("stream", name="stdout", text=at("printed", text)),
            nbformat.v4.new_output("display_data", data=foreign),
            nbformat.v4.new_output("display_data", data={"text/html": text}, metadata={"lang": "en"}),
            *(nbformat.v4.new_output("display_data", data={CHIPS_MIME: [chip]}, metadata={"lang": x})
              for x in ("ja", "en")),
        ]  # fmt: skip
    nbformat.write(notebook, path)


def words(text: str) -> str:
    """A text as it is compared: without blanks and invisible marks, with typographic quotes made plain."""
    plain = unicodedata.normalize("NFKC", text).translate(str.maketrans("“”‘’", "\"\"''"))
    return re.sub(r"[\s␣⏎\u200b-\u200f\u2028-\u202e\ufeff\u00ad]", "", plain)


@cache
def driver() -> Any:
    """Playwright in this process, which can have one at a time: until `end_browser`, or the process' end."""
    from playwright.sync_api import sync_playwright

    return sync_playwright().start()


@cache
def browser() -> Any:
    if CHROMIUM is None:
        raise RuntimeError("no Chromium on this machine")
    return driver().chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def end_browser() -> None:
    if browser.cache_info().currsize:
        browser().close()
        driver().stop()
        browser.cache_clear()
        driver.cache_clear()


@contextlib.contextmanager
def opened(path: Path, lang: str = "en"):
    """`(page, what it has done to the outside)`."""
    context = browser().new_context(locale="en-US", accept_downloads=True)
    context.set_default_timeout(15_000)
    seen, told = context.new_page(), []
    seen.on("console", lambda message: told.append(f"console: {message.text[:150]}"))
    seen.on("pageerror", lambda error: told.append(f"error: {str(error)[:150]}"))
    seen.on("dialog", lambda dialog: (told.append("a dialog"), dialog.dismiss()))
    own = (path.as_uri(), "data:", "blob:")
    seen.on("request", lambda asked: None if asked.url.startswith(own) else told.append(asked.url[:150]))
    try:
        seen.goto(f"{path.as_uri()}?lang={lang}")
        yield seen, told
    finally:
        context.close()


def came_alive(seen: Any, told: list[str]) -> str | None:
    """What a page has made of a hostile string; None where it is words and nothing else."""
    if seen.evaluate(ALIVE):
        return "something of it came to life"
    return f"it did {told[0]}" if told else None


def missing(shown: str, text: str, places: tuple[str, ...]) -> str | None:
    """In which places a text does not stand as words; of those in Markdown, some signs of which are none, its mark."""
    plain = words(shown)
    gone = [place for place in places if words(at(place, "" if place in MARKDOWN else text)) not in plain]
    return f"as {', '.join(gone)} it does not stand there as words" if gone else None


def page(path: Path, text: str) -> str | None:
    """In both languages, with all code shown and a chart alive whose marks are pointed at."""
    for lang in ("ja", "en"):
        with opened(path, lang) as (seen, told):
            seen.locator("#all-code").click()
            plot = seen.locator(f"#fig-speed-{lang} .plot")
            plot.scroll_into_view_if_needed()
            plot.hover()
            marks = plot.locator("svg .mark-symbol path")
            wait(seen, f"document.querySelector('#fig-speed-{lang} .plot').dataset.drawn === 'yes'")
            marks.nth(1).hover(force=True)
            tooltip = seen.locator("#vg-tooltip-element.visible")
            tooltip.wait_for()
            if words(text)[:100] not in words(tooltip.inner_text()):
                return f"its tooltip says {tooltip.inner_text()[:150]!r}"
            wrong = came_alive(seen, told) or missing(seen.evaluate("document.body.textContent"), text, SHOWN)
            if wrong:
                return f"{lang}: {wrong}"
    return None


def wait(seen: Any, condition: str, seconds: float = 30) -> None:
    """Waits until an expression is true; asked from outside, for the page's policy forbids evaluating within."""
    deadline = time.monotonic() + seconds
    while not seen.evaluate(condition):
        if time.monotonic() > deadline:
            raise TimeoutError(f"never true: {condition}")
        seen.wait_for_timeout(50)


def downloads(path: Path, text: str) -> str | None:
    """What is saved from a table and from a chart that hold the text, in every form."""
    with opened(path) as (seen, told):
        plot = seen.locator("#fig-speed-en .plot")
        plot.scroll_into_view_if_needed()
        plot.hover()
        wait(seen, "document.querySelector('#fig-speed-en .plot').dataset.drawn === 'yes'")
        for figure, kinds in (("#tab-samples-en", ("json", "csv")), ("#fig-speed-en", ("json", "csv", "svg", "png"))):
            for kind in kinds:
                seen.locator(f"{figure} .menu > summary").click()
                with seen.expect_download() as download:
                    seen.locator(f"{figure} [data-save={kind}]").click()
                saved = Path(download.value.path())
                wrong = JUDGES[kind](saved, text)
                if wrong:
                    return f"{figure} as {kind}: {wrong}"
        return came_alive(seen, told)


def saved_json(path: Path, text: str) -> str | None:
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [str(value) for row in found["rows"] for value in row.values()]
    if not any(words(text) in words(value) for value in rows):
        return "does not hold it as words"
    return None if words(at("profile", text)) == words(found["about"]["profile"]) else "has another profile"


def saved_csv(path: Path, text: str) -> str | None:
    import csv

    content = path.read_bytes().decode("utf-8-sig")
    head, body = (
        [line for line in content.split("\r\n") if line.startswith("#") is is_head] for is_head in (True, False)
    )
    cells = [cell for row in csv.reader(io.StringIO("\r\n".join(body))) for cell in row]
    formulas = [c for c in cells if re.match(r"[=+\-@\t\r]", c) and not re.fullmatch(r"[+-]?[\d.e+-]+", c.strip())]
    if formulas:
        return f"begins a cell with {formulas[0][:40]!r}"
    if not any(words(text) in words(cell) for cell in cells):
        return "does not hold it as words"
    return None if words(at("profile", text)) in words("".join(head)) else "has another profile"


def saved_svg(path: Path, text: str) -> str | None:
    """Opened as a document of its own, where no policy protects."""
    drawing = path.rename(path.with_suffix(".svg"))
    with opened(drawing) as (seen, told):
        seen.wait_for_timeout(100)
        alive = "window.fired !== undefined || !!document.querySelector('script, foreignObject, image, a, [onload]')"
        if seen.evaluate(alive) or told:
            return f"something of it came to life {told[:1]}"
        return missing(seen.evaluate("document.documentElement.textContent").replace('\\"', '"')
                       .replace("\\\\", "\\").replace("\\n", ""), text, ("profile",))  # fmt: skip


def saved_png(path: Path, _: str) -> str | None:
    return None if path.read_bytes().startswith(b"\x89PNG") else "is no picture"


JUDGES = {"json": saved_json, "csv": saved_csv, "svg": saved_svg, "png": saved_png}


def book(folder: Path, text: str) -> str | None:
    """Both books: the text's words in each place, no address, script or file of this machine because of it."""
    if not shutil.which("pdftotext"):
        return "no pdftotext on this machine"
    for lang in ("ja", "en"):
        path = folder / f"report.{lang}.pdf"
        read, links, scripts = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout
            for command in (["pdftotext", path, "-"], ["pdfinfo", "-url", path], ["pdfinfo", "-js", path])
        )
        if re.search(r"javascript:|192\.0\.2\.1", links) or "fired" in scripts:
            return f"{path.name} holds an address or a script of it"
        if SECRET in read:
            return f"{path.name} holds a file of this machine"
        shown = IN_BOOK if text.isprintable() and text.isascii() else ()
        wrong = missing(read, text, shown)
        if wrong:
            return f"{path.name}: {wrong}"
    return None


def playground(folder: Path, text: str) -> str | None:
    """As the model's and the text's names, and as all tokens of the tokenizer but those of single bytes."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import GPT2Config, GPT2LMHeadModel

    from lib.analysis import int8
    from report import playground as maker

    torch.manual_seed(5)
    config = GPT2Config(vocab_size=4096, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    _, matrices, vectors = int8.in_int8(GPT2LMHeadModel(config).eval())
    vocabulary = json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    letters = {token: number for token, number in vocabulary["model"]["vocab"].items() if len(token) == 1}
    others = {*vocabulary["model"]["vocab"].values()} - {*letters.values()}
    ((spelt, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    tokens = {f"{spelt if number % 2 else text}<{number}>": number for number in sorted(others)}
    vocabulary["model"] |= {"vocab": letters | tokens, "merges": []}
    sizes = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "layer_norm_epsilon")
    parts = {
        "config": {key: getattr(config, key) for key in sizes},
        "means": np.zeros((2, 2, 8), np.float32),
        "tokenizer": json.dumps(vocabulary, ensure_ascii=False),
        "matrices": matrices,
        "vectors": vectors,
    }
    about = {"n_params": 1, "n_tokens": 1, "ppl": 2.0, "ppl_int8": 2.0, "ratio": 1.0, "ratio_ci": [1.0, 1.0]}
    path = folder / "playground.html"
    path.write_text(maker.write(parts, about | {"name": at("model", text), "corpus": at("corpus", text)}), "utf-8")
    with opened(path) as (seen, told):
        wait(seen, READY)
        seen.locator("#given").fill(text[:12])
        wait(seen, READY)
        seen.wait_for_timeout(300)
        wrong = came_alive(seen, told) or missing(
            seen.evaluate("document.querySelector('main').textContent"), text, ("model", "corpus")
        )
        next_ones = [words(x) for x in seen.locator("[data-show=next] code").all_text_contents()]
        if not wrong and not any(words(text)[:60] in token for token in next_ones):
            wrong = f"as a token it does not stand there as words: {next_ones[:3]}"
        return wrong


def packed(bench: Bench, source: Path, text: str) -> str | None:
    """Sent in a pack, with signs that steer a terminal: unpacked as it was, and what is said of it steers nothing."""
    import measured

    from lib.archive import sha256
    from lib.errors import InputError
    from lib.results import diff
    from lib.travel import pack, why

    build, elsewhere = bench.fresh("build"), bench.fresh("elsewhere")
    folder = build / "smoke"
    shutil.copytree(source, folder)
    noted: dict[str, Any] = {}
    for path in sorted((folder / "results" / "data" / "sections").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        about = measured.PROVENANCE | record["provenance"] | {"profile": "smoke"}
        about |= {"parameters": {"dataset": text + ESCAPES}, "versions": measured.PROVENANCE["versions"]}
        about |= {key: measured.PROVENANCE[key] | {"name": text} for key in ("model", "corpus")}
        about["backend"] = about["device"] = text + ESCAPES
        path.write_text(json.dumps(record | {"provenance": about}), encoding="utf-8")
        files = [path, folder / "notebooks" / f"{path.stem}.ipynb"]
        noted[path.stem] = {
            "files": {p.relative_to(folder).as_posix(): sha256(p.read_bytes()) for p in files if p.is_file()},
            "measuring": {"modules": {text + ESCAPES: text + ESCAPES}},
        }
    (folder / "manifest.json").write_text(json.dumps({"overrides": {}, "notebooks": noted}), encoding="utf-8")
    with in_place(build):
        try:
            archive = pack.pack("smoke", build / "packs")
        except InputError as error:  # of a figure whose name not every system can have
            said = str(error)
            if not said.isprintable() or "results/figures/" not in said:
                return f"was refused with {said[:200]!r}"
            (folder / foreign_figure(text)).unlink()
            archive = pack.pack("smoke", build / "packs")
    before = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with in_place(elsewhere):
        target, _ = pack.unpack(archive)
        after = {p.relative_to(target): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    with in_place(build):
        for path in (folder / "results" / "data" / "sections").glob("*.json"):
            record = json.loads(path.read_text(encoding="utf-8"))
            record["provenance"] |= {"device": "cpu", "parameters": {"dataset": "x"}}
            path.write_text(json.dumps(record), encoding="utf-8")
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            diff.main(["--all", "smoke", str(archive)])
            print(why.explained("smoke", str(archive)))
    steering = [c for c in said.getvalue() if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"]
    if steering:
        return f"the terminal is given {steering[0]!r}"
    kept = {str(k): v for k, v in before.items() if k.parts[0] != "report" or k.suffix in (".html", ".pdf")}
    return unlike({str(k): v for k, v in after.items()}, kept)
