"""The set-up section: model, text and tokens, checked before anything is measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.analysis.bootstrap import Units
from lib.errors import InputError
from lib.files import replacing
from lib.model import header, loading
from lib.params import resolve_for_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lib.pipeline.measuring import Measuring

EMBEDDED_JUDGE = "models/judge"


def prepare(run: "Measuring") -> dict[str, Any]:
    """The set-up section's data: model, corpus and tokens, all checked; writes `tokens.npy` and `documents.npy`.

    Raises `InputError` for a folder that is no model, a corpus too short, more heads than there are.
    """
    from lib.engine.dispatch import resolve
    from lib.model import corpus

    chosen = run.parameters
    folder = loading.model_folder(chosen["model"])
    config = loading.load_config(folder)
    n_layer, n_head, n_positions = loading.shape(config)
    resolved = resolve_for_model(chosen, n_layer, n_head, n_positions)
    device = resolve_device(chosen["device"])
    backend = resolve(chosen["backend"], device)
    loading.load_model(folder, chosen["dtype"])
    tokenizer = loading.load_tokenizer(loading.tokenizer_folder(chosen["tokenizer"], folder))
    rows, corpus_name, normalised = corpus.read_rows(chosen["dataset"], chosen["dataset_config"], chosen["split"])
    ids, document, unit = corpus.encode_documents(rows, tokenizer)
    tokens, documents = (corpus.chunk(x, chosen["n_ctx"], chosen["full_chunks"]) for x in (ids, document))
    if int(tokens.max()) >= config.vocab_size:
        raise InputError(
            f"tokenizer: makes the id {int(tokens.max())}, allowed: below {config.vocab_size}, the model's vocabulary;"
            " pass -p tokenizer DIR"
        )
    judge = find_judge(chosen["judge"], folder, tokenizer, chosen["dtype"])
    n_kv_head = getattr(config, "num_key_value_heads", None) or n_head
    d_head = getattr(config, "head_dim", None) or config.hidden_size // n_head
    data = {
        "parameters": chosen,
        "model": {
            "name": loading.split_revision(chosen["model"])[0],
            "slug": loading.slug(chosen["model"]),
            "family": config.model_type,
            "n_layer": n_layer,
            "n_head": n_head,
            "n_kv_head": n_kv_head,
            "d_head": d_head,
            "n_embd": config.hidden_size,
            "d_mlp": getattr(config, "intermediate_size", None)
            or getattr(config, "n_inner", None)
            or 4 * config.hidden_size,
            "n_positions": n_positions,
            "vocab_size": config.vocab_size,
            "n_params": loading.count_parameters(folder, config),
            "fingerprint": loading.fingerprint(folder),
            "is_gpt2_small": loading.is_gpt2_small(folder, chosen["model"]),
            "stored_dtypes": header.stored_dtypes(folder),
        },
        "judge": judge,
        "corpus": {
            "name": corpus_name,
            "split": chosen["split"],
            "fingerprint": corpus.fingerprint(ids),
            "n_tokens": len(ids),
            "n_chunks": len(ids) // chosen["n_ctx"],
            "normalised": normalised,
        },
        "documents": {"unit": unit} | count_documents(documents, chosen["quick_chunks"]),
        "n_ctx": chosen["n_ctx"],
        "quick_chunks": chosen["quick_chunks"],
        "full_chunks": chosen["full_chunks"],
        "quick_tokens": chosen["quick_chunks"] * chosen["n_ctx"],
        "full_tokens": tokens.size,
        "n_heads": n_layer * n_head,
        "device": device,
        "backend": backend,
        **resolved,
    }
    for name, array in (("tokens", tokens), ("documents", documents)):
        with replacing(run.data_folder / f"{name}.npy") as partial, partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    return data


def count_documents(documents: np.ndarray, n_quick: int) -> dict[str, Any]:
    """How many documents the scored tokens hold, how long they are in tokens, and what is resampled because of that.

    `{n, n_quick, longest, median, resampled, resampled_quick}`, the last two as of `Units.about`.
    """
    sizes = np.unique(documents, return_counts=True)[1]
    n_chunks, n_ctx = documents.shape
    return {
        "n": len(sizes),
        "n_quick": len(np.unique(documents[:n_quick])),
        "longest": int(sizes.max()),
        "median": float(np.median(sizes)),
        "resampled": Units.choose(n_chunks, n_ctx, documents).about(),
        "resampled_quick": Units.choose(n_quick, n_ctx, documents[:n_quick]).about(),
    }


def find_judge(
    name: str, model_folder: Path, tokenizer: "PreTrainedTokenizerBase", dtype: str
) -> dict[str, Any] | None:
    """The second judge of P3, `{name, place, fingerprint, n_layer, n_head, n_params}`, or None for none.

    `auto` takes the embedded one where it reads the model's tokens. Raises `InputError` for one that was asked for and
    has other tokens, or is the model itself.
    """
    asked = name not in ("", "auto")
    name = EMBEDDED_JUDGE if name == "auto" else name
    if not name:
        return None
    folder = loading.model_folder(name, "judge")
    config = loading.load_config(folder)
    n_layer, n_head, _ = loading.shape(config)
    if loading.load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        if asked:
            raise InputError(
                f"judge: {name!r} has another vocabulary, allowed: a model with the tokens of the one judged"
            )
        return None
    fingerprint = loading.fingerprint(folder)
    if fingerprint == loading.fingerprint(model_folder):
        if asked:
            raise InputError(f"judge: {name!r} is the model itself, allowed: another one")
        return None
    loading.load_model(folder, dtype)
    return {
        "name": loading.split_revision(name)[0],
        "place": name,
        "fingerprint": fingerprint,
        "n_layer": n_layer,
        "n_head": n_head,
        "n_params": loading.count_parameters(folder, config),
    }


def resolve_device(name: str) -> str:
    """`auto` as the best device here; `InputError` for one that is not here."""
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, usable in here.items() if usable)
    if not here[name]:
        usable = ", ".join(device for device, ok in here.items() if ok)
        raise InputError(f"device: given {name!r}, allowed on this machine: auto, {usable}")
    return name
