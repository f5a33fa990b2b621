"""The playground in a real browser: PyTorch's logits, the tokenizer's ids, and words that stay words."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from synthetic import HOSTILE
from test_browser import AXE, CHROMIUM, chromium, until, violations  # noqa: F401 (a fixture)
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from lib.analysis import int8
from lib.engine.reference import Reference
from lib.errors import InputError
from report import playground

VOCABULARY = (ROOT / "models" / "embedded" / "tokenizer.json").read_text(encoding="utf-8")
TEXTS = [
    "def f(x):\n    return x\n",
    "日本語の文章、ひらがなとカタカナ。",
    "👩‍👩‍👧 🇯🇵 e\u0301 \u200b",
    "  \t \n\n\u3000\u00a0\u0085x\u2028\ufeffy  ",
    "don't we'll 'S \r\n 12٣½ __init__ <|endoftext|>after",
    "<|endoftext|><|endoftext|>",
    " ",
    "",
]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian's package `chromium`)")


@pytest.fixture(scope="module")
def tiny():
    """`(rounded model, its page's parts)` of a random GPT-2 with 3 layers of 4 heads, its biases not 0."""
    torch.manual_seed(5)
    config = GPT2Config(vocab_size=4096, n_positions=48, n_embd=32, n_layer=3, n_head=4)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for own in model.parameters():
            own.add_(torch.randn_like(own) * (0.3 if own.ndim == 1 else 0.1))
    made, matrices, vectors = int8.in_int8(model)
    means = np.random.default_rng(5).normal(size=(3, 4, 8)).astype(np.float32)
    sizes = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "layer_norm_epsilon")
    parts = {"config": {key: getattr(config, key) for key in sizes}, "means": means, "tokenizer": VOCABULARY}
    return made, parts | {"matrices": matrices, "vectors": vectors}


ABOUT = {"name": HOSTILE, "n_params": 12345, "corpus": HOSTILE, "n_tokens": 1000, "ppl": 20.0, "ppl_int8": 20.1}
ABOUT |= {"ratio": 1.005, "ratio_ci": [1.004, 1.006]}


@pytest.fixture
def page(chromium, tiny, tmp_path):  # noqa: F811
    """The tiny model's page, opened in English and ready; `.told` collects what it does to the outside."""
    path = tmp_path / "playground.html"
    path.write_text(playground.write(tiny[1], ABOUT), encoding="utf-8")
    context = chromium.new_context(locale="en-US")
    opened = context.new_page()
    opened.told = []
    opened.on("console", lambda message: opened.told.append(f"console: {message.text}"))
    opened.on("pageerror", lambda error: opened.told.append(f"error: {error}"))
    opened.on(
        "request", lambda request: opened.told.append(request.url) if not request.url.startswith("file:") else None
    )
    opened.goto(path.as_uri())
    until(opened, "document.getElementById('status').textContent.includes('heads changed')")
    yield opened
    context.close()


def edits_of(heads):
    names = dict(enumerate(playground.MODES))
    return {(i // 4, i % 4): names[mode] for i, mode in enumerate(heads) if mode}


def expected(tiny, tokens, heads):
    """float64 logits [T, vocab] of the reference, whose means are those of the page less the value bias."""
    reference = Reference(tiny[0])
    biases = torch.stack([reference.value_bias(layer) for layer in range(3)])
    means = torch.from_numpy(tiny[1]["means"]).double() - biases
    return reference.logits(tokens, edits_of(heads), means).numpy()


BOARDS = {
    "softmax": [0] * 12,
    "relu": [1] * 12,
    "zero": [2] * 12,
    "mean": [3] * 12,
    "mixed": [0, 1, 2, 3, 1, 1, 0, 2, 3, 0, 1, 2],
}


@needs_browser
@pytest.mark.parametrize("board", BOARDS)
def test_logits_are_pytorchs(page, tiny, board):
    heads, tokens = BOARDS[board], [int(i) for i in np.random.default_rng(1).integers(0, 4096, 40)]
    found = page.evaluate(
        """async ([tokens, heads]) => {
          const model = await playground.ready, cache = model.cache();
          return tokens.map((token) => Array.from(model.step(token, cache, heads)));
        }""",
        [tokens, heads],
    )
    wanted = expected(tiny, tokens, heads)
    assert np.abs(np.array(found) - wanted).max() < 1e-4
    assert np.abs(wanted - expected(tiny, tokens, [0] * 12)).max() > 1e-2 or board == "softmax"
    assert page.told == []


@needs_browser
def test_a_row_without_a_positive_score_gives_the_value_bias(page, tiny):
    z = page.evaluate(
        """async () => {
          const model = await playground.ready, cache = model.cache(), { scratch, size } = model, own = model.layers[1];
          cache.keys[1].fill(1);
          cache.values[1].fill(5);
          scratch.qkv.fill(-1, 0, model.config.n_embd);
          model.attend(1, 2, MODE.relu, cache);
          return [scratch.z, own.valueBias].map((all) => Array.from(all.subarray(2 * size, 3 * size)));
        }"""
    )
    bias = Reference(tiny[0]).value_bias(1)[2].numpy()
    assert np.allclose(z[0], bias, atol=1e-6)
    assert np.allclose(z[1], bias, atol=1e-6)


@needs_browser
def test_tokenizer_agrees_with_pythons(page):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "embedded")
    found = page.evaluate("texts => texts.map((text) => playground.tokenizer.encode(text))", TEXTS)
    assert found == [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    assert page.evaluate("all => all.map((ids) => playground.tokenizer.decode(ids))", found) == TEXTS
    halves = tokenizer.encode("👩", add_special_tokens=False)[:-1]
    assert page.evaluate("ids => playground.tokenizer.decode(ids)", halves) == tokenizer.decode(halves)


@needs_browser
def test_board_and_text_lead_to_the_models_figures(page, tiny):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "embedded")
    text = "def read(self, n):\n    return n"
    page.locator("#given").fill(text)
    page.locator("[data-head='0']").focus()
    for key in ("ArrowRight", "Enter", "ArrowDown", "Enter", "Enter"):
        page.keyboard.press(key)
    assert page.locator("[data-head='1']").get_attribute("aria-label") == "L0H1: ReLU"
    assert page.locator("[data-head='5']").get_attribute("aria-label") == "L1H1: zero"
    tokens = tokenizer.encode(text)
    until(page, f"document.getElementById('status').textContent.startsWith('{len(tokens)} tokens, 2 heads changed')")
    heads = [0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    for side, modes in (("untouched", [0] * 12), ("changed", heads)):
        logits = expected(tiny, tokens, modes)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        ppl = math.exp(-np.mean([logp[i, token] for i, token in enumerate(tokens[1:])]))
        shown = page.locator(f"#{side} [data-show=ppl]").get_attribute("data-exact")
        assert float(shown) == pytest.approx(ppl, rel=1e-4)
        share = page.locator(f"#{side} .next li span").first.inner_text()
        assert share == f"{100 * math.exp(logp[-1].max()):.1f}%"
    assert page.told == []


@needs_browser
@pytest.mark.skipif(AXE is None, reason="axe-core is not installed (`pip install axe-playwright-python`)")
def test_axe_finds_nothing(page):
    page.locator("[data-head='1']").click()
    until(page, "document.getElementById('status').textContent.includes(' 1 head')")
    assert violations(page) == []


@needs_browser
def test_what_was_read_is_kept_and_nothing_else(page):
    same = page.evaluate(
        """async () => {
          const reader = new Reader(await playground.ready), fresh = new Reader(await playground.ready), found = [];
          for (const tokens of [[5, 6, 7, 8], [5, 6, 9], [5, 6], [5, 6, 7, 8, 10], [3], [5, 6]]) {
            await reader.read(tokens);
            fresh.forget();
            await fresh.read(tokens);
            found.push(String(reader.nll) === String(fresh.nll) && String(reader.logits) === String(fresh.logits));
          }
          return found;
        }"""
    )
    assert same == [True] * 6


@needs_browser
def test_continuation_is_greedy_and_hostile_words_stay_words(page, tiny):
    page.locator("#given").fill(HOSTILE[:20])
    page.locator("#go-on").click()
    until(page, "/tokens.s/.test(document.getElementById('speed').textContent)")
    tokens = AutoTokenizer.from_pretrained(ROOT / "models" / "embedded").encode(HOSTILE[:20])
    n_given = len(tokens)
    while len(tokens) < 48:
        best = int(expected(tiny, tokens, [0] * 12)[-1].argmax())
        if best == 0:
            break
        tokens.append(best)
    found = page.locator("#untouched [data-show=continuation]").text_content()
    assert found == page.evaluate("ids => playground.tokenizer.decode(ids)", tokens[n_given:])
    assert HOSTILE in page.locator("main").inner_text()
    assert page.locator("img, main script").count() == 0
    assert page.evaluate("window.fired") is None
    page.get_by_role("button", name="日本語").click()
    assert page.locator("[data-head='0']").get_attribute("aria-label") == "L0H0: softmax"
    assert page.locator("h1:visible").inner_text() == "ヘッドを差し替えて試す"
    assert page.told == []


def test_rounding_keeps_to_half_a_level():
    weight = np.random.default_rng(2).normal(size=(7, 30)).astype(np.float32)
    weight[3] = 0
    rows = int8.rounded(weight)
    assert (np.abs(rows.restored() - weight).max(axis=1) <= rows.scales / 2 + 1e-6).all()
    assert np.abs(rows.values).max(axis=1).tolist() == [127, 127, 127, 0, 127, 127, 127]


def test_what_does_not_fit_is_refused(tiny):
    other = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2, activation_function="relu"))
    with pytest.raises(InputError, match="only a GPT-2 with gelu_new"):
        int8.in_int8(other)
    noise = np.random.default_rng(0).integers(-127, 127, (2500, 2000)).astype(np.int8)
    large = {"wte.weight": int8.Rows(noise, np.ones(2500, np.float32))}
    with pytest.raises(InputError, match="weights take .* allowed: 5,000,000"):
        playground.packed(tiny[1] | {"matrices": large})
    with pytest.raises(InputError, match="no byte-level BPE"):
        playground.vocabulary(json.dumps({"model": {"type": "Unigram"}, "pre_tokenizer": None}))


@needs_browser
def test_the_rate_is_the_one_that_the_page_says(tiny, tmp_path):
    path = tmp_path / "playground.html"
    path.write_text(playground.write(tiny[1], ABOUT), encoding="utf-8")
    program = "import sys; from report.loading import *; print(typed(Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0
