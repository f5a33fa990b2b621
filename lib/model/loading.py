"""Model and tokenizer, from a folder or from the hub: safetensors only, no code but transformers' own."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.errors import InputError, first_line
from lib.layout import ROOT
from lib.model import header

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def split_revision(name: str) -> tuple[str, str | None]:
    """`owner/name@revision` as `(owner/name, revision or None)`."""
    name, _, revision = name.partition("@")
    return name, revision or None


def local_folder(name: str) -> Path | None:
    """The folder that `name` means, seen from here or from the project's root; None where it is not one."""
    for path in (Path(os.path.expanduser(name)), ROOT / name):  # noqa: PTH111 (pathlib's raises for an unknown user)
        try:
            if path.is_dir():
                return path.resolve()
        except (OSError, ValueError):  # no name that a file can have
            continue
    return None


def looks_like_hub_id(name: str) -> bool:
    return name.count("/") <= 1 and not name.startswith((".", "/", "~")) and not (ROOT / name.split("/")[0]).is_dir()


def fetch(kind: str, key: str, name: str, patterns: list[str]) -> Path:
    """A folder with the files of `name`: a local one as it is, a hub repository as a snapshot.

    Raises `InputError`, saying what to pass instead, where there is neither.
    """
    folder = local_folder(name)
    if folder:
        return folder
    repo, revision = split_revision(name)
    instead = f"pass a local folder: -p {key} DIR"
    if not looks_like_hub_id(name):
        raise InputError(f"{key}: given {name!r}, which is no folder here; {instead}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, repo_type=kind, allow_patterns=patterns))
    except Exception as error:
        raise InputError(f"{key}: {repo!r} can't be had from the hub ({type(error).__name__}); {instead}") from None


def model_folder(name: str, key: str = "model") -> Path:
    """The folder of a model, the value of parameter `key`, checked to be loadable without running anybody's code."""
    folder = fetch("model", key, name, ["*.json", "*.txt", "*.safetensors", "*.model"])
    if not (folder / "config.json").is_file():
        raise InputError(f"{key}: {name!r} has no config.json; allowed: a folder that save_pretrained has written")
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{key}: {name!r} has no *.safetensors; allowed: weights as save_pretrained writes them")
    return folder


def tokenizer_folder(name: str, model: Path) -> Path:
    """The tokenizer's folder: the model's own unless `name` says another."""
    return fetch("model", "tokenizer", name, ["*.json", "*.txt", "*.model"]) if name else model


def training_record(folder: Path) -> dict[str, Any] | None:
    """What `training.json` says of how the model was trained, `{seed, batch_tokens, stages: [{context, tokens}]}`.

    None where there is none; a damaged one is an `InputError`.
    """
    path = folder / "training.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        stages = [{key: int(stage[key]) for key in ("context", "tokens")} for stage in record["stages"]]
        return {"seed": int(record["seed"]), "batch_tokens": int(record["batch_tokens"]), "stages": stages}
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f"model: {path} can't be read ({first_line(error)}); delete it or train again") from None


def load_config(folder: Path) -> "PretrainedConfig":
    """The configuration, once its sizes are known to be those of the weights; `InputError` where they are not."""
    header.check(folder)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise InputError(f"model: {folder} has a config.json that can't be read ({first_line(error)})") from None


def n_positions(config: "PretrainedConfig") -> int:
    return getattr(config, "n_positions", None) or config.max_position_embeddings


def shape(config: "PretrainedConfig") -> tuple[int, int, int]:
    """`n_layer, n_head, n_positions` of a configuration; `InputError` for a family that the engine does not know."""
    known = header.GPT2_TYPES + header.LLAMA_TYPES
    if config.model_type not in known:
        allowed = ", ".join(known)
        raise InputError(f"model: given one of type {config.model_type!r}, allowed: decoders of the types {allowed}")
    return config.num_hidden_layers, config.num_attention_heads, n_positions(config)


def load_model(folder: Path, dtype: str = "float32", device: str = "cpu") -> "PreTrainedModel":
    """The model in evaluation mode.

    Weights that are damaged, that do not fit the configuration or that are not finite are an `InputError`.
    """
    import torch
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()  # what its report would say of the weights is checked below
    logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            attn_implementation="sdpa",
        )
    except Exception as error:
        raise InputError(f"model: {folder} can't be loaded ({first_line(error)})") from None
    model, info = loaded
    tied = getattr(model.config, "tie_word_embeddings", True)
    missing = [key for key in info["missing_keys"] if not (tied and key.startswith("lm_head"))]
    lacking = sorted(missing) or sorted(key for key, *_ in info["mismatched_keys"])
    if lacking:
        raise InputError(
            f"model: {folder} lacks {lacking[0]} in the shape that its config.json asks for,"
            f" and {len(lacking) - 1} more; save it again with save_pretrained"
        )
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            raise InputError(f"model: {folder} holds NaN or infinity in {name}, allowed: finite weights")
    return model.to(device).eval()


def check_tokenizer(folder: Path) -> None:
    """Finds at once what is wrong with a tokenizer's files. Raises `InputError` for none, and for damaged ones."""
    check_tokenizer_files(folder)
    path = folder / "tokenizer.json"
    if path.is_file():
        from tokenizers import Tokenizer

        try:
            Tokenizer.from_file(str(path))
        except Exception as error:
            raise damaged_tokenizer(folder, error) from None


def check_tokenizer_files(folder: Path) -> None:
    """The part of the check that loading does not make itself."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        raise InputError(f"tokenizer: {folder} holds none (no tokenizer.json, no vocab.json); pass -p tokenizer DIR")
    for path in (folder / "tokenizer_config.json", folder / "vocab.json"):
        if path.is_file():
            try:
                if not isinstance(json.loads(path.read_bytes()), dict):
                    raise ValueError("no object")
            except (OSError, ValueError, RecursionError) as error:
                raise damaged_tokenizer(folder, error) from None


def damaged_tokenizer(folder: Path, error: Exception) -> InputError:
    return InputError(f"tokenizer: {folder} holds none that can be loaded ({first_line(error)}); pass -p tokenizer DIR")


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    check_tokenizer_files(folder)
    from transformers import AutoTokenizer, GPT2Tokenizer

    try:
        if not (folder / "tokenizer_config.json").is_file() and (folder / "merges.txt").is_file():
            return GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise damaged_tokenizer(folder, error) from None


def commit(folder: str | Path) -> str | None:
    """The hub's commit that a downloaded snapshot was resolved to; None for a folder of one's own."""
    folder = Path(folder)
    return folder.name if folder.parent.name == "snapshots" else None


def fingerprint(folder: Path) -> str:
    """sha256 over the configuration and the weights, file by file."""
    digest = hashlib.sha256()
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def slug(name: str) -> str:
    """The model's name in file names: the last part of its path, revision left out."""
    last = split_revision(name)[0].rstrip("/").rsplit("/", 1)[-1]
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in last) or "model"


def count_parameters(folder: Path, config: "PretrainedConfig") -> int:
    """Parameters of the model, tied ones once, read from the safetensors' headers."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118
                if key.endswith((".attn.bias", ".attn.masked_bias")) or (
                    key == "lm_head.weight" and getattr(config, "tie_word_embeddings", True)
                ):
                    continue
                total += math.prod(file.get_slice(key).get_shape())
    return total


GPT2_SMALL = {
    "model_type": "gpt2",
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "vocab_size": 50257,
    "n_positions": 1024,
}


def is_gpt2_small(folder: Path, name: str) -> bool:
    """Whether the numbers may be held against the published ones: GPT-2 small's shape, from its own repository.

    A local folder counts when its weights are those of `openai-community/gpt2`, told by the safetensors' sha256.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if any(config.get(key) != value for key, value in GPT2_SMALL.items()):
        return False
    return split_revision(name)[0] in ("gpt2", "openai-community/gpt2") or weights_digest(folder) == GPT2_WEIGHTS


GPT2_WEIGHTS = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"


def weights_digest(folder: Path) -> str | None:
    path = folder / "model.safetensors"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
