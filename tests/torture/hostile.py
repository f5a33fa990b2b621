"""Hostile strings as every text that can come from outside, through page, books, playground and downloads.

`data/hostile.json` holds them. The page's own texts are taken from a browser; where there is none that is said, and
what a browser would show counts as failed.
"""

import contextlib
import json
import re
import shutil
import subprocess
import time
import unicodedata
from pathlib import Path
from unittest import mock

import nbformat
import numpy as np

from torture.bench import DATA, EMBEDDED, Bench

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OUTPUTS = ("page", "downloads", "book", "playground")
MUST_NOT_RUN = "window.fired === undefined && !document.querySelector('img, iframe, base, body link, main script')"
SECRET = "root:x:0:0"
FIGURES = {"V1": ["baseline"], "P1": ["speed"]}  # the second has the text in its tooltips


def trials(bench: Bench, chosen: str) -> None:
    strings = json.loads((DATA / "hostile.json").read_text(encoding="utf-8"))
    listed = [(i, text) for i, text in enumerate(strings) if not bench.short or i in (1, 10)]
    with browser() as chromium:
        for i, text in listed:
            if chosen and not chosen.startswith(f"{i:02}"):
                continue
            began, found = time.time(), dict.fromkeys(OUTPUTS, "")
            folder = bench.fresh("hostile")
            try:
                write(folder, text)
                found["book"] = book(folder, text)
                if chromium is None:
                    found |= dict.fromkeys(("page", "downloads", "playground"), "no Chromium on this machine")
                else:
                    found["page"], found["downloads"] = page(chromium, folder / "report" / "report.html", text)
                    found["playground"] = playground(chromium, folder, text)
            except Exception as error:
                found["page"] = f"{type(error).__name__}: {str(error)[:300]}"
            for output, wrong in found.items():
                bench.note("hostile", f"{i:02}-{output}", wrong or None, began)
                began = time.time()


@contextlib.contextmanager
def browser():
    if CHROMIUM is None:
        yield None
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def write(folder: Path, text: str) -> None:
    """A build whose model, dataset, profile, generated text, provenance and notebook metadata all are this text."""
    import synthetic

    from report import prose
    from report.assemble import assemble

    class Patch:
        setattr = staticmethod(setattr)

    show = prose.show
    with mock.patch.multiple(synthetic, FIGURES=FIGURES, HOSTILE=text):
        synthetic.write_build(folder, Patch, model_name=text, sample=f"{text}\n{text}")
    prose.show = show
    for path in (folder / "results" / "data" / "sections").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        about = record["provenance"]
        about |= {"profile": text, "commit": text, "device": text, "backend": text}
        about["machine"] |= {"system": text, "processor": text}
        about["versions"] |= {"python": text, "torch": text}
        about["model"] = {"name": text, "fingerprint": "0" * 64}
        about["corpus"] = {"name": text, "fingerprint": "0" * 64}
        if record["section"] == "setup":
            record["data"]["corpus"]["name"] = text
        path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    for path in (folder / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata |= {
            "title": text,
            "authors": [{"name": text}],
            "kernelspec": {"name": "x", "display_name": text},
        }
        for cell in notebook.cells:
            cell.metadata["name"] = text
        nbformat.write(notebook, path)
    assemble(folder / "notebooks", folder / "results", folder / "report")


def words(text: str) -> str:
    """A text as it is compared: without blanks and invisible marks, with typographic quotes made plain."""
    plain = unicodedata.normalize("NFKC", text).translate(str.maketrans("“”‘’", "\"\"''"))
    return re.sub(r"[\s\u200b-\u200f\u2028-\u202e\ufeff\u00ad]", "", plain)


def opened(chromium, path: Path):
    context = chromium.new_context(locale="en-US", accept_downloads=True)
    context.set_default_timeout(15_000)
    seen, told = context.new_page(), []
    seen.on("console", lambda message: told.append(f"console: {message.text[:150]}"))
    seen.on("pageerror", lambda error: told.append(f"error: {str(error)[:150]}"))
    seen.on("dialog", lambda dialog: (told.append("a dialog"), dialog.dismiss()))
    seen.on(
        "request",
        lambda request: (
            None if request.url.startswith((path.as_uri(), "data:", "blob:")) else told.append(request.url[:150])
        ),
    )
    seen.goto(path.as_uri())
    return context, seen, told


def page(chromium, path: Path, text: str) -> tuple[str, str]:
    """What is wrong with the page, and with what is saved from it."""
    context, seen, told = opened(chromium, path)
    try:
        seen.goto(f"{path.as_uri()}?lang=en")
        seen.locator("#all-code").click()
        seen.wait_for_timeout(300)
        wrong = "" if seen.evaluate(MUST_NOT_RUN) else "something of it came to life"
        if words(text) not in words(seen.evaluate("document.body.textContent")):
            wrong = wrong or "does not stand there as words"
        wrong = wrong or (f"it did {told[0]}" if told else "")
        return wrong, saved(seen, text)
    finally:
        context.close()


def saved(seen, text: str) -> str:
    """The table that holds the text, as JSON and CSV."""
    for kind in ("json", "csv"):
        seen.locator("#tab-samples-en .menu > summary").click()
        with seen.expect_download() as download:
            seen.locator(f"#tab-samples-en [data-save={kind}]").click()
        content = Path(download.value.path()).read_text(encoding="utf-8-sig")
        if words(text) not in words(json.dumps(json.loads(content), ensure_ascii=False).replace('\\"', '"')
                                    .replace("\\\\", "\\").replace("\\n", "\n") if kind == "json"
                                    else content.replace('""', '"')):  # fmt: skip
            return f"the saved {kind} does not hold it as words"
        cells = re.findall(r'(?:^|,)"?([=+\-@][^",\n]*)', content, re.M) if kind == "csv" else []
        formulas = [cell for cell in cells if not re.fullmatch(r"[+-]?[\d.e+-]+", cell.strip())]
        if formulas:
            return f"the saved csv begins a cell with {formulas[0][:40]!r}"
    return ""


def book(folder: Path, text: str) -> str:
    """Both books: the text's words where it can be read out, no link and nothing read from the disk because of it."""
    for lang in ("ja", "en"):
        path = folder / "report" / f"report.{lang}.pdf"
        content = path.read_bytes()
        if not content.startswith(b"%PDF-") or re.search(
            rb"/URI ?\((javascript|http://192\.0\.2)|/JavaScript", content
        ):
            return f"{path.name} holds an address or a script of it"
        if shutil.which("pdftotext"):
            read = subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True).stdout
            if SECRET in read:
                return f"{path.name} holds a file of this machine"
            if text.isascii() and text.isprintable() and words(text) not in words(read):
                return f"{path.name} does not hold it as words"
    return ""


def playground(chromium, folder: Path, text: str) -> str:
    """As the model's and the text's names, and as a token of the tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from lib.analysis import int8
    from report import playground as maker

    torch.manual_seed(5)
    config = GPT2Config(vocab_size=4096, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    _, matrices, vectors = int8.in_int8(GPT2LMHeadModel(config).eval())
    vocabulary = json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    last = max(vocabulary["model"]["vocab"], key=vocabulary["model"]["vocab"].get)
    number = vocabulary["model"]["vocab"].pop(last)
    vocabulary["model"]["vocab"][text] = number
    merges = vocabulary["model"]["merges"]
    vocabulary["model"]["merges"] = [
        pair for pair in merges if "".join(pair if isinstance(pair, list) else pair.split(" ")) != last
    ]
    sizes = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "layer_norm_epsilon")
    parts = {
        "config": {key: getattr(config, key) for key in sizes},
        "means": np.zeros((2, 2, 8), np.float32),
        "tokenizer": json.dumps(vocabulary, ensure_ascii=False),
        "matrices": matrices,
        "vectors": vectors,
    }
    about = {"name": text, "corpus": text, "n_params": 1, "n_tokens": 1, "ppl": 2.0, "ppl_int8": 2.0, "ratio": 1.0}
    path = folder / "playground.html"
    path.write_text(maker.write(parts, about | {"ratio_ci": [1.0, 1.0]}), encoding="utf-8")
    context, seen, told = opened(chromium, path)
    try:
        deadline = time.monotonic() + 30
        while not seen.evaluate("document.getElementById('status').textContent.includes('heads changed')"):
            if time.monotonic() > deadline:
                return f"never became ready {told[:1]}"
            seen.wait_for_timeout(50)
        seen.locator("#given").fill(text)
        seen.wait_for_timeout(300)
        if not seen.evaluate("window.fired === undefined && !document.querySelector('img, iframe, main script')"):
            return "something of it came to life"
        if words(text) not in words(seen.evaluate("document.querySelector('main').textContent")):
            return "does not stand there as words"
        return f"it did {told[0]}" if told else ""
    finally:
        context.close()
