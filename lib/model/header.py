"""A model's weights by their header alone: nothing is loaded, nothing is allocated by what a configuration asks for."""

import json
import math
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lib.errors import InputError, first_line

# Families of models that the engine knows, as a configuration names them.
GPT2_TYPES = ("gpt2",)
LLAMA_TYPES = ("llama", "mistral", "qwen2", "qwen3")
MOST_BYTES = 2**20  # of a config.json
LAYER = re.compile(r"(?:^|\.)(?:h|layers)\.(\d+)\.")
# What a configuration calls a size (GPT-2's name, then everybody else's), and the weight and axis that hold it.
SIZES = {
    "width": (("n_embd", "hidden_size"), r"(wte|embed_tokens)\.weight", 1),
    "vocabulary": (("vocab_size",), r"(wte|embed_tokens)\.weight", 0),
    "positions": (("n_positions",), r"wpe\.weight", 0),
    "width of the MLP": (("n_inner", "intermediate_size"), r"mlp\.(c_fc\.bias|gate_proj\.weight)", 0),
}
HEADS = ("n_head", "num_attention_heads")


def shapes(folder: Path) -> dict[str, list[int]]:
    """`{name: shape}` of all weights. Raises `InputError` for a damaged or truncated file."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "np") as file:
                found |= {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"model: {folder} can't be loaded ({path.name}: {first_line(error)})") from None
    return found


# safetensors' names of what weights are stored in, as torch calls them.
STORED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8", "U8": "uint8"}


def stored_dtypes(folder: Path) -> list[str]:
    """The types that the weights are stored in, the one with the most weights first; masks are no weights."""
    counts: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118
                if not name.endswith((".attn.bias", ".attn.masked_bias")):
                    held = file.get_slice(name)
                    kind = STORED.get(held.get_dtype(), held.get_dtype().lower())
                    counts[kind] = counts.get(kind, 0) + math.prod(held.get_shape())
    return sorted(counts, key=lambda kind: (-counts[kind], kind))


def check(folder: Path) -> None:
    """Holds the sizes that `config.json` asks for against the weights' header, before anything is allocated.

    Raises `InputError` for a configuration that is none, and for sizes that the weights do not have.
    """
    config, weights = read_config(folder), shapes(folder)
    layers = len({found.group(1) for name in weights if (found := LAYER.search(name))})
    same(folder, "layers", size(folder, config, "layers", ("n_layer", "num_hidden_layers")), layers or None)
    for what, (names, pattern, axis) in SIZES.items():
        held = next((shape for name, shape in weights.items() if re.search(rf"(^|\.){pattern}$", name)), [])
        same(folder, what, size(folder, config, what, names), held[axis] if len(held) > axis else None)
    heads = size(folder, config, "heads", HEADS)
    kv_heads = size(folder, config, "key and value heads", ("num_key_value_heads",)) or heads
    width = size(folder, config, "width", SIZES["width"][0])
    d_head = size(folder, config, "width of a head", ("head_dim",)) or (width // heads if width and heads else None)
    if heads and width and heads > width:
        raise InputError(
            f"model: {folder}'s config.json asks for {heads:,} heads, allowed: at most its width {width:,}"
        )
    for what, asked, key in (("query", heads, "q_proj"), ("key", kv_heads, "k_proj")):
        held = next((shape for name, shape in weights.items() if name.endswith(f"{key}.weight")), [])
        if held and asked and d_head:
            same(folder, f"width of all {what} heads", asked * d_head, held[0])


def size(folder: Path, config: dict, what: str, names: tuple[str, ...]) -> int | None:
    """What a configuration asks for under one of `names`; None where it says nothing."""
    asked = next((config[name] for name in names if config.get(name) is not None), None)
    if asked is None or (isinstance(asked, int) and not isinstance(asked, bool) and 1 <= asked < 2**63):
        return asked
    raise InputError(f"model: {folder}'s config.json gives {what} as {repr(asked)[:40]}, allowed: whole numbers from 1")


def same(folder: Path, what: str, asked: int | None, held: int | None) -> None:
    if asked is not None and held is not None and asked != held:
        raise InputError(
            f"model: {folder}'s config.json asks for {what}: {asked:,}, its weights hold {held:,};"
            " save both again with save_pretrained"
        )


def read_config(folder: Path) -> dict:
    path = folder / "config.json"
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(f"model: {path} is larger than {MOST_BYTES:,} bytes, allowed: what save_pretrained writes")
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"model: {folder} has a config.json that can't be read ({first_line(error)})") from None
    if not isinstance(config, dict):
        raise InputError(f"model: {folder} has a config.json that can't be read (no object)")
    return config
