import copy
import json
import shutil
import time

import pytest
import tiny_models
import torch
from conftest import DATA, EMBEDDED, N_VOCAB
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from lib.errors import InputError
from lib.model import header, loading

FAMILIES = ["gpt2", "llama"]


def refused(call, *args):
    with pytest.raises(InputError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(params=FAMILIES)
def folder(request, model_folders):
    return model_folders[request.param]


@pytest.fixture
def spoiled(tmp_path, model_folders):
    """A copy of the GPT-2 type folder, to be damaged."""
    return shutil.copytree(model_folders["gpt2"], tmp_path / "spoiled")


def load(name):
    found = loading.model_folder(str(name))
    loading.shape(loading.load_config(found))
    return loading.load_model(found)


def test_a_saved_model_comes_back_bit_by_bit(folder, model_folders):
    family = next(name for name, path in model_folders.items() if path == folder)
    kind = {"gpt2": {"n_layer": 3, "n_positions": 128}, "llama": {"n_layer": 2, "max_position_embeddings": 128}}[family]
    saved = tiny_models.MAKERS[family](vocab_size=N_VOCAB, **kind)
    loaded = load(folder)
    assert not loaded.training
    assert type(loaded) is type(saved)
    for name, weights in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights), name
    assert loading.shape(loaded.config) == (kind["n_layer"], 4, 128)


def test_parameters_are_counted_once(folder):
    config = loading.load_config(folder)
    assert loading.count_parameters(folder, config) == sum(p.numel() for p in load(folder).parameters())


def test_parameters_of_a_sharded_and_of_an_untied_model(tmp_path):
    for name, config in (("tied", {}), ("untied", {"tie_word_embeddings": False})):
        model = tiny_models.gpt2(**config)
        model.save_pretrained(tmp_path / name, max_shard_size="20KB")
        assert len(list((tmp_path / name).glob("*.safetensors"))) > 1
        found = loading.count_parameters(tmp_path / name, loading.load_config(tmp_path / name))
        assert found == sum(p.numel() for p in model.parameters())


def test_the_tokenizer_lies_beside_the_model_or_elsewhere(folder, tokenizer):
    own = loading.load_tokenizer(loading.tokenizer_folder("", folder))
    assert own("def f(x):")["input_ids"] == tokenizer("def f(x):")["input_ids"]
    assert loading.tokenizer_folder(str(folder), EMBEDDED) == folder


@pytest.mark.skipif(not DATA.is_dir(), reason="GPT-2's own vocabulary is not beside the project")
def test_a_tokenizer_of_vocabulary_and_merges_alone():
    tokenizer = loading.load_tokenizer(DATA / "gpt2-tokenizer")
    assert tokenizer("Hello world").input_ids == [15496, 995]
    assert len(tokenizer) == 50257


def test_a_fingerprint_is_of_configuration_and_weights(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert loading.fingerprint(copied) == loading.fingerprint(folder)
    (copied / "README.md").write_text("more about it")
    assert loading.fingerprint(copied) == loading.fingerprint(folder)
    data = bytearray((copied / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copied / "model.safetensors").write_bytes(data)
    assert loading.fingerprint(copied) != loading.fingerprint(folder)


def test_only_the_published_weights_are_gpt2_small(tmp_path, monkeypatch):
    """Random weights of the true shape are another model, whatever their folder is called."""
    config = GPT2Config().to_dict() | {"model_type": "gpt2"}
    folder = tmp_path / "gpt2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"transformer.wte.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    assert not loading.is_gpt2_small(folder, str(folder))
    monkeypatch.setattr(loading, "GPT2_WEIGHTS", loading.weights_digest(folder))
    assert loading.is_gpt2_small(folder, str(folder))
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": 24}))
    assert not loading.is_gpt2_small(folder, str(folder))


def test_names_of_files():
    assert loading.slug("openai-community/gpt2@607a30d") == "gpt2"
    assert loading.slug("/somewhere/my model v1.5/") == "my-model-v1-5"
    assert loading.split_revision("a/b@c") == ("a/b", "c")
    assert loading.split_revision("a/b") == ("a/b", None)


def test_a_folder_that_is_no_model(tmp_path, spoiled):
    assert "'/no/such', which is no folder here; pass a local folder: -p model DIR" in refused(load, "/no/such")
    assert "model: given './no-such'" in refused(load, "./no-such")
    assert "has no config.json" in refused(load, tmp_path)
    (spoiled / "model.safetensors").unlink()
    assert "has no *.safetensors" in refused(load, spoiled)


def test_a_pickle_is_not_opened(spoiled):
    torch.save({}, spoiled / "pytorch_model.bin")
    (spoiled / "model.safetensors").unlink()
    assert "has no *.safetensors; allowed: weights as save_pretrained writes them" in refused(load, spoiled)


@pytest.mark.parametrize("kept", [0, 4, 200, -1])
def test_truncated_weights(spoiled, kept):
    data = (spoiled / "model.safetensors").read_bytes()
    (spoiled / "model.safetensors").write_bytes(data[:kept])
    message = refused(load, spoiled)
    assert message.startswith(f"model: {spoiled} can't be loaded (")


def test_a_damaged_configuration(spoiled):
    (spoiled / "config.json").write_text('{"model_type": "gpt2", ')
    assert "model: " in refused(load, spoiled)
    assert "config.json that can't be read" in refused(load, spoiled)
    (spoiled / "config.json").write_text('{"model_type": "not-a-model"}')
    assert "config.json that can't be read" in refused(load, spoiled)


def test_weights_that_are_missing_or_of_another_shape(spoiled):
    path = spoiled / "model.safetensors"
    weights = load_file(path)
    key = next(key for key in weights if key.endswith("h.1.attn.c_attn.weight"))
    save_file({k: v for k, v in weights.items() if k != key}, path, metadata={"format": "pt"})
    assert "lacks transformer.h.1.attn.c_attn.weight in the shape" in refused(load, spoiled)
    save_file(weights | {key: torch.zeros(3, 3)}, path, metadata={"format": "pt"})
    assert "lacks transformer.h.1.attn.c_attn.weight in the shape" in refused(load, spoiled)


def test_an_unembedding_that_is_missing_is_not_made_up(tmp_path):
    tiny_models.gpt2(tie_word_embeddings=False).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "lacks lm_head.weight" in refused(load, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(spoiled, value):
    path = spoiled / "model.safetensors"
    weights = load_file(path)
    key = next(key for key in weights if key.endswith("h.2.mlp.c_fc.bias"))
    weights[key] = weights[key].clone()
    weights[key][5] = value
    save_file(weights, path, metadata={"format": "pt"})
    message = refused(load, spoiled)
    assert (
        message == f"model: {spoiled} holds NaN or infinity in transformer.h.2.mlp.c_fc.bias, allowed: finite weights"
    )


def test_another_architecture(tmp_path):
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    assert refused(load, tmp_path) == (
        "model: given one of type 'bert', allowed: decoders of the types gpt2, llama, mistral, qwen2, qwen3"
    )


def test_no_code_from_the_folder_runs(spoiled):
    config = json.loads((spoiled / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (spoiled / "config.json").write_text(json.dumps(config))
    (spoiled / "own.py").write_text(f"open({str(spoiled / 'ran')!r}, 'w')")
    refused(load, spoiled)
    assert not (spoiled / "ran").exists()


def test_a_folder_without_tokenizer(spoiled):
    (spoiled / "tokenizer.json").write_text('{"version": ')
    message = refused(loading.load_tokenizer, spoiled)
    assert message.startswith(f"tokenizer: {spoiled} holds none that can be loaded (")
    assert message.endswith("pass -p tokenizer DIR")
    (spoiled / "tokenizer.json").unlink()
    message = refused(loading.load_tokenizer, spoiled)
    assert message.startswith(f"tokenizer: {spoiled} holds none (")
    assert message.endswith("pass -p tokenizer DIR")


def test_a_hub_that_can_t_be_reached():
    message = refused(loading.model_folder, "openai-community/gpt2@607a30d")
    assert message.startswith("model: 'openai-community/gpt2' can't be had from the hub (")
    assert message.endswith("); pass a local folder: -p model DIR")
    assert "-p tokenizer DIR" in refused(loading.tokenizer_folder, "openai-community/gpt2", EMBEDDED)


def test_the_embedded_model_loads():
    if not EMBEDDED.is_dir():
        pytest.skip("models/embedded is not there")
    model = load("models/embedded")
    assert isinstance(model, GPT2LMHeadModel)
    config = copy.copy(model.config)
    assert (config.n_layer, config.n_head, config.n_positions) == (12, 12, 1024)
    assert config.vocab_size <= 4096
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) <= 16 * 2**20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"n_layer": 10**9},
            "asks for layers: 1,000,000,000, its weights hold 3; save both again with",
        ),
        ({"n_embd": 10**9}, "asks for width: 1,000,000,000, its weights hold 32; save"),
        ({"n_head": 10**9}, "asks for 1,000,000,000 heads, allowed: at most its width 32"),
        ({"vocab_size": 10**12}, "asks for vocabulary: 1,000,000,000,000, its weights hold 320; save"),
        ({"n_positions": 10**9}, "asks for positions: 1,000,000,000, its weights hold 128; save"),
        ({"n_inner": 10**9}, "asks for width of the MLP: 1,000,000,000, its weights hold 128; save"),
        ({"n_layer": "many"}, "gives layers as 'many', allowed: whole numbers from 1"),
        ({"n_head": 0}, "gives heads as 0, allowed: whole numbers from 1"),
        ({"n_layer": True}, "gives layers as True, allowed: whole numbers from 1"),
    ],
)
def test_sizes_that_the_weights_do_not_have(model_folders, tmp_path, change, said):
    spoiled = shutil.copytree(model_folders["gpt2"], tmp_path / "spoiled")
    config = json.loads((spoiled / "config.json").read_text())
    (spoiled / "config.json").write_text(json.dumps(config | change))
    began = time.monotonic()
    message = refused(loading.load_config, spoiled)
    assert time.monotonic() - began < 1
    assert message.startswith(f"model: {spoiled}'s config.json ") and said in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 10**9}, "asks for layers: 1,000,000,000, its weights hold 2"),
        ({"intermediate_size": 10**9}, "asks for width of the MLP: 1,000,000,000"),
        ({"head_dim": 10**9}, "asks for width of all query heads: "),
        ({"num_key_value_heads": 3}, "asks for width of all key heads: "),
    ],
)
def test_sizes_of_a_llama_type_model(model_folders, tmp_path, change, said):
    spoiled = shutil.copytree(model_folders["llama"], tmp_path / "spoiled")
    config = json.loads((spoiled / "config.json").read_text())
    (spoiled / "config.json").write_text(json.dumps(config | change))
    assert said in refused(loading.load_config, spoiled)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"\xff\xfe{", b"[" * 100_000, b" " * 2**21])
def test_a_configuration_that_is_none(model_folders, tmp_path, content):
    spoiled = shutil.copytree(model_folders["gpt2"], tmp_path / "spoiled")
    (spoiled / "config.json").write_bytes(content)
    assert "config.json" in refused(loading.load_config, spoiled)


def test_truncated_weights_are_told_by_their_header(model_folders, tmp_path):
    spoiled = shutil.copytree(model_folders["gpt2"], tmp_path / "spoiled")
    path = spoiled / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refused(loading.load_config, spoiled).startswith(f"model: {spoiled} can't be loaded (model.safetensors: ")


@pytest.mark.parametrize(
    ("kind", "said"), [(torch.float16, "float16"), (torch.int8, "int8"), (torch.bfloat16, "bfloat16")]
)
def test_what_weights_are_stored_in_is_told_and_computed_in_float32(spoiled, kind, said):
    path = spoiled / "model.safetensors"
    weights = load_file(path)
    masks = {"transformer.h.0.attn.bias": torch.ones(1, 1, 200, 200, dtype=torch.uint8)}
    norms = {name: value for name, value in weights.items() if "ln_" in name}
    save_file(
        {name: (100 * x).to(kind) for name, x in weights.items()} | norms | masks, path, metadata={"format": "pt"}
    )
    assert header.stored_dtypes(spoiled) == [said, "float32"]
    assert {weight.dtype for weight in load(spoiled).parameters()} == {torch.float32}
