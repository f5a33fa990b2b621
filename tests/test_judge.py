"""The second judge of P3, and what a model's folder says of its training."""

import json
import shutil

import pytest
from conftest import N_VOCAB, ROOT
from tiny_models import MAKERS

from lib.errors import InputError
from lib.model import loading
from lib.pipeline.setup import EMBEDDED_JUDGE, find_judge


@pytest.fixture
def judge(tmp_path, tokenizer):
    """Other weights and another shape, beside the same tokens."""
    folder = tmp_path / "other"
    MAKERS["gpt2"](vocab_size=N_VOCAB, n_layer=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_judge_is_described(judge, model_folders, tokenizer):
    found = find_judge(str(judge), model_folders["gpt2"], tokenizer, "float32")
    config = json.loads((judge / "config.json").read_text(encoding="utf-8"))
    assert found == {
        "name": str(judge),
        "place": str(judge),
        "fingerprint": loading.fingerprint(judge),
        "n_layer": 1,
        "n_head": config["n_head"],
        "n_params": sum(p.numel() for p in loading.load_model(judge).parameters()),
    }


def test_no_judge_where_none_is_asked_for(model_folders, tokenizer):
    assert find_judge("", model_folders["gpt2"], tokenizer, "float32") is None


def test_the_model_is_not_its_own_judge(model_folders, tokenizer, tmp_path):
    copy = shutil.copytree(model_folders["gpt2"], tmp_path / "copy")
    with pytest.raises(InputError, match="is the model itself, allowed: another one"):
        find_judge(str(copy), model_folders["gpt2"], tokenizer, "float32")


def test_a_judge_with_other_tokens_is_refused(judge, model_folders, tokenizer):
    path = judge / "tokenizer.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    first, second = list(kept["model"]["vocab"])[-2:]
    vocab = kept["model"]["vocab"]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(InputError, match="has another vocabulary, allowed: a model with the tokens of the one judged"):
        find_judge(str(judge), model_folders["gpt2"], tokenizer, "float32")


@pytest.mark.skipif(not (ROOT / EMBEDDED_JUDGE).is_dir(), reason="models/judge is not there")
def test_auto_takes_the_embedded_judge_for_the_embedded_model_alone(model_folders, tokenizer):
    """For a model with other tokens it is left out without a word; asked for by name, it is an error."""
    embedded = ROOT / "models" / "embedded"
    found = find_judge("auto", embedded, loading.load_tokenizer(embedded), "float32")
    assert found["place"] == EMBEDDED_JUDGE
    assert found["fingerprint"] != loading.fingerprint(embedded)
    assert find_judge("auto", model_folders["gpt2"], tokenizer, "float32") is None
    with pytest.raises(InputError, match="another vocabulary"):
        find_judge(EMBEDDED_JUDGE, model_folders["gpt2"], tokenizer, "float32")
    own = ROOT / EMBEDDED_JUDGE
    assert find_judge("auto", own, loading.load_tokenizer(own), "float32") is None


RECORD = {"seed": 3, "batch_tokens": 64, "stages": [{"context": 16, "tokens": 640}, {"context": 32, "tokens": 64}]}


def test_what_is_known_of_a_training(tmp_path):
    assert loading.training_record(tmp_path) is None
    path = tmp_path / "training.json"
    path.write_text(json.dumps(RECORD | {"words": "more"}), encoding="utf-8")
    assert loading.training_record(tmp_path) == RECORD


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        json.dumps({"seed": 3}),
        json.dumps(RECORD | {"stages": [{"context": 16}]}),
        json.dumps(RECORD | {"seed": "x"}),
    ],
)
def test_a_damaged_training_record_is_one_line(tmp_path, content):
    (tmp_path / "training.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"training\.json can't be read .*; delete it or train again") as caught:
        loading.training_record(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not (ROOT / "models" / "embedded").is_dir(), reason="models/embedded is not there")
def test_the_embedded_model_says_how_often_it_saw_each_context():
    stages = loading.training_record(ROOT / "models" / "embedded")["stages"]
    assert max(stage["context"] for stage in stages) == 1024
