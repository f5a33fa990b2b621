"""The playground: a small GPT-2 in the reader's browser, as one page beside the report.

    python -m report.playground --model models/embedded --out build/embedded/report/playground.html

The weights stand in the page, rounded to eight bits; what that costs in PPL is measured on held-out text and stated.
The page asks nothing of any network, and its policy names its own scripts by their hashes.
"""

import argparse
import base64
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from lib.errors import InputError
from lib.files import replacing
from report import loading, page
from report.words import LANGUAGES, PLAYGROUND_WORDS

FOLDER = page.TEMPLATES / "playground"
SCRIPTS = ("tokenizer", "model", "playground")
LIMIT = 5_000_000
MODES = ("softmax", "relu", "zero", "mean")


def write(model: dict[str, Any], about: dict[str, Any]) -> str:
    """The page's HTML.

    model: `{config, matrices, vectors, means, tokenizer}`, of which the first has `n_layer, n_head, n_embd,
    n_positions, vocab_size, layer_norm_epsilon`, the last is the text of `tokenizer.json`. about: `{name, n_params}`
    and what `lib.analysis.int8.cost` found. `InputError` where the weights take more than `LIMIT` characters.
    """
    index, weights = packed(model)
    data = {"config": model["config"], "index": index, "tokenizer": vocabulary(model["tokenizer"])}
    words = {key: dict(zip(LANGUAGES, pair, strict=True)) for key, pair in PLAYGROUND_WORDS.items()}
    sources = {name: (FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS}
    scripts = [page.script("head"), *sources.values()]
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("index.html.j2").render(
        policy=Markup(page.policy(scripts, style)),
        head=Markup(scripts[0]),
        style=Markup(style),
        scripts=[Markup(source) for source in sources.values()],
        data=Markup(page.script_json(data | {"words": words})),
        weights=Markup(weights),
        words=words,
        modes=MODES,
        config=model["config"],
        about=about | {"bytes": len(weights)},
        languages=LANGUAGES,
    )


def packed(model: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """`({matrices: [[name, rows, columns]], vectors: [[name, length]]}, base64 of the deflated bytes)`.

    The int8 values of all matrices, zeros up to a multiple of four, then float32: each matrix's scales, each vector.
    """
    vectors = {**model["vectors"], "means": np.asarray(model["means"], dtype=np.float32).ravel()}
    values = b"".join(rows.values.tobytes() for rows in model["matrices"].values())
    scales = [rows.scales for rows in model["matrices"].values()]
    floats = b"".join(np.asarray(x, dtype="<f4").tobytes() for x in [*scales, *vectors.values()])
    content = values + bytes(-len(values) % 4) + floats
    text = base64.b64encode(zlib.compress(content, 9)).decode()
    if len(text) > LIMIT:
        raise InputError(f"the model's weights take {len(text):,} characters, allowed: {LIMIT:,}; take a smaller model")
    index = {
        "matrices": [[name, *rows.values.shape] for name, rows in model["matrices"].items()],
        "vectors": [[name, len(vector)] for name, vector in vectors.items()],
    }
    return index, text


def vocabulary(text: str) -> dict[str, Any]:
    """`{vocab: tokens by id, merges: ["a b"], special: {content: id}}` of a byte-level BPE's `tokenizer.json`."""
    found = json.loads(text)
    model = found["model"]
    if model.get("type") != "BPE" or (found.get("pre_tokenizer") or {}).get("type") != "ByteLevel":
        raise InputError("the model's tokenizer is no byte-level BPE, which is the only kind the playground has")
    by_id = {number: token for token, number in model["vocab"].items()}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    special = {row["content"]: row["id"] for row in found.get("added_tokens", [])}
    return {"vocab": [by_id.get(i, "") for i in range(max(by_id) + 1)], "merges": merges, "special": special}


def measured(name: str, n_chunks: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """`(model, about)` for `write` of the model in a folder, measured on `n_chunks` chunks of held-out code."""
    from lib.analysis import int8
    from lib.model import corpus, loading
    from lib.store import open_store

    folder = loading.model_folder(name)
    original, tokenizer = loading.load_model(folder), loading.load_tokenizer(folder)
    made, matrices, vectors = int8.in_int8(original)
    config = original.config
    rows, corpus_name = corpus.load_rows("cpython-stdlib", "", "heldout")
    ids, document, _ = corpus.encode_documents(rows, tokenizer)
    tokens, documents = (corpus.spread(x, config.n_positions, n_chunks) for x in (ids, document))
    loss, means = int8.cost(original, made, tokens, documents, open_store(), loading.fingerprint(folder))
    sizes = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "layer_norm_epsilon")
    model = {
        "config": {key: getattr(config, key) for key in sizes},
        "matrices": matrices,
        "vectors": vectors,
        "means": means.numpy(),
        "tokenizer": (folder / "tokenizer.json").read_text(encoding="utf-8"),
    }
    n_params = loading.count_parameters(folder, config)
    return model, loss | {"name": name, "n_params": n_params, "corpus": corpus_name}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m report.playground", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models/embedded", help="folder of a GPT-2 that fits a page")
    parser.add_argument("--chunks", type=int, default=16, help="chunks of held-out text that the loss is measured on")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    args = parser.parse_args(words)
    try:
        model, about = measured(args.model, args.chunks)
        text = write(model, about)
    except InputError as error:
        sys.exit(f"error: {error}")
    with replacing(args.out) as partial:
        partial.write_text(text, encoding="utf-8")
    low, high = (end - 1 for end in about["ratio_ci"])
    print(
        f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB; in int8 PPL {about['ppl']:.3f} becomes"
        f" {about['ppl_int8']:.3f}, {about['ratio'] - 1:+.2%} [{low:+.2%}, {high:+.2%}]",
        flush=True,
    )
    rate = loading.typed(args.out)
    if rate:
        print(f"in a browser here: {rate:.3g} tokens/s, both models together")


if __name__ == "__main__":
    main()
