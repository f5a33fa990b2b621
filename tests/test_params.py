import pytest
import yaml

from lib import params
from lib.errors import InputError


def refused(call, *args, **kwargs):
    with pytest.raises(InputError) as error:
        call(*args, **kwargs)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("n_ctx", "128", 128),
        ("full_chunks", 64, 64),
        ("temperature", "0.8", 0.8),
        ("temperature", 1, 1.0),
        ("dtype", "bfloat16", "bfloat16"),
        ("ladder", "0 10 all", "0 10 all"),
        ("relu_counts", 30, "30"),
        ("focus_head", "L3H11", "L3H11"),
        ("tokenizer", "", ""),
        ("seed", 2**32 - 1, 2**32 - 1),
    ],
)
def test_a_good_value_takes_its_type(name, given, value):
    found = params.check(name, given)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "allowed"),
    [
        ("n_ctx", "long", "a whole number from 2"),
        ("n_ctx", 1, "a whole number from 2"),
        ("n_ctx", "12.5", "a whole number from 2"),
        ("n_ctx", 12.0, "a whole number from 2"),
        ("n_ctx", True, "a whole number from 2"),
        ("n_ctx", None, "a whole number from 2"),
        ("full_chunks", "-3", "a whole number from 1"),
        ("seed", 2**32, "between 0 and 4294967295"),
        ("draws", 99, "between 100 and 100000"),
        ("temperature", 0, "a number above 0 and at most 10"),
        ("temperature", "nan", "a number above 0 and at most 10"),
        ("temperature", "inf", "a number above 0 and at most 10"),
        ("temperature", "warm", "a number above 0 and at most 10"),
        ("temperature", True, "a number above 0 and at most 10"),
        ("temperature", [1], "a number above 0 and at most 10"),
        ("dtype", "float16", "one of float32, bfloat16"),
        ("device", "gpu", "one of auto, cpu, cuda, mps"),
        ("backend", ["cpu"], "one of auto, naive, triton, metal, native, cpu"),
        ("ladder", "0, 10", "whole numbers"),
        ("ladder", "-1", "whole numbers"),
        ("context_lengths", "all", "whole numbers"),
        ("focus_head", "8.0", "a head such as L0H8"),
        ("model", "", "a folder, or the name of something on the hub"),
        ("model", 3.5, "a folder, or the name of something on the hub"),
        ("split", "a/b", "the name of a split"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name, given, allowed):
    message = refused(params.check, name, given)
    assert name in message
    assert repr(given) in message
    assert allowed in message


def test_an_unknown_parameter_is_answered_with_the_nearest():
    message = refused(params.load_profile, "smoke", {"n_ctxx": "64"})
    assert "-p n_ctxx: unknown" in message
    assert "did you mean n_ctx?" in message
    assert all(name in message for name in params.RULES)


def test_an_unknown_profile_is_answered_with_the_known_ones():
    message = refused(params.load_profile, "smokey")
    assert "'smokey'" in message
    assert "did you mean smoke?" in message
    assert "embedded, gpt2, gpt2-large, gpt2-medium, gpt2-quick, smoke" in message
    assert "profile: given '../params/smoke'" in refused(params.load_profile, "../params/smoke")


def test_profiles_lie_on_the_base_and_overrides_on_them():
    base = yaml.safe_load((params.PROFILES / "embedded.yaml").read_text(encoding="utf-8"))
    assert set(base) == set(params.RULES)
    own = yaml.safe_load((params.PROFILES / "smoke.yaml").read_text(encoding="utf-8"))
    values = params.load_profile("smoke", {"new_tokens": "4"})
    assert values["new_tokens"] == 4
    assert values["samples"] == own["samples"] != base["samples"]
    assert values["model"] == base["model"]


@pytest.mark.parametrize("name", params.profile_names())
def test_every_profile_is_sound(name):
    assert set(params.load_profile(name)) == set(params.RULES)


def test_the_specification_s_own_run():
    values = params.load_profile("gpt2")
    assert (values["n_ctx"], values["quick_chunks"], values["full_chunks"]) == (1024, 2, 245)
    assert values["dataset_config"] == "wikitext-2-raw-v1"
    shape = params.resolve_for_model(values, 12, 12, 1024)
    assert shape["ladder"] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 132]
    assert shape["relu_counts"] == [30, 70]
    assert shape["context_lengths"] == [128, 256, 512, 1024]
    speed = {"speed_prompt": 64, "speed_tokens": 128, "speed_runs": 10, "context_tokens": 50_000}
    part_p = {"prompts": 20, "prompt_tokens": 128, "new_tokens": 64, "iterations": 3, "samples": 5, "temperature": 0.8}
    part_p |= {"prompts_from": "first"}
    assert (speed | part_p).items() <= values.items()


def test_auto_on_another_shape_keeps_the_shares():
    values = params.load_profile("embedded", {"n_ctx": 512})
    shape = params.resolve_for_model(values, 4, 8, 512)
    assert shape["n_rankable"] == 24
    assert shape["relu_counts"] == [round(24 * 30 / 132), round(24 * 70 / 132)]
    assert shape["ladder"] == [0, 10, 20, 24]
    assert shape["context_lengths"] == [64, 128, 256, 512]


@pytest.mark.parametrize(
    ("overrides", "key", "bound"),
    [
        ({"quick_chunks": 5}, "quick_chunks: given 5", "at most 4 (full_chunks)"),
        ({"prompts": 9}, "prompts: given 9", "at most 4"),
        ({"context_tokens": 513}, "context_tokens: given 513", "at most 512 (full_chunks * n_ctx)"),
        ({"new_tokens": 60}, "prompt_tokens + new_tokens * iterations = 196", "at most n_ctx = 128"),
        ({"speed_tokens": 121}, "speed_prompt + speed_tokens = 129", "at most n_ctx = 128"),
        ({"context_lengths": "32 256"}, "context_lengths: given 256", "n_ctx = 128"),
        ({"context_lengths": "1"}, "context_lengths: given 1", "between 2 and n_ctx = 128"),
    ],
)
def test_parameters_that_do_not_fit_each_other(overrides, key, bound):
    message = refused(params.load_profile, "smoke", overrides)
    assert key in message
    assert bound in message


def test_a_profile_s_own_values_are_cut_to_the_corpus():
    values = params.load_profile("smoke", {"full_chunks": 2})
    assert (values["quick_chunks"], values["prompts"], values["context_tokens"]) == (1, 2, 256)


def test_more_heads_than_there_are():
    values = params.load_profile("smoke")
    few = params.resolve_for_model(values | {"ladder": "2 8 all 2", "relu_counts": "all"}, 3, 4, 1024)
    assert (few["ladder"], few["relu_counts"]) == ([0, 2, 8], [8])
    message = refused(params.resolve_for_model, values | {"ladder": "0 4 30"}, 3, 4, 1024)
    assert message == "ladder: given 30, allowed: at most 8, the heads outside layer 0"
    message = refused(params.resolve_for_model, values | {"relu_counts": "9"}, 3, 4, 1024)
    assert message == "relu_counts: given 9, allowed: at most 8, the heads outside layer 0"


def test_a_sequence_longer_than_the_model_s():
    message = refused(params.resolve_for_model, params.load_profile("embedded"), 12, 12, 512)
    assert "n_ctx: given 1024, allowed: at most 512" in message


def test_a_model_of_one_layer_has_nothing_to_rank():
    assert "two or more" in refused(params.resolve_for_model, params.load_profile("smoke"), 1, 12, 1024)


def test_heads_by_name():
    assert params.read_head("L11H3", 12, 12) == (11, 3)
    assert refused(params.read_head, "L12H0", 12, 12) == "focus_head: given L12H0, allowed: L0H0 to L11H11"
    assert "L0H12" in refused(params.read_head, "L0H12", 12, 12)
