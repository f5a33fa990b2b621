"""A plan in other tools: the engine's logits, by a stand-in of each tool and, where installed, by the tool itself."""

import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from conftest import EMBEDDED, ROOT
from hooked import run_with_hooks, traced
from tiny_models import MAKERS, gpt2, qwen2, tokens

from lib.engine.interventions import Plan, apply
from lib.engine.modes import MODES
from lib.errors import InputError
from lib.exchange import plan_file
from lib.exchange.nnsight import nnsight_edit
from lib.exchange.plan_file import PlanFile
from lib.exchange.transformer_lens import transformer_lens_hooks
from lib.model.adapters import adapter
from lib.model.loading import load_model

TOLERANCE = {"rtol": 0, "atol": 1e-4}
BASES = pytest.mark.parametrize("folded", [True, False], ids=["folded", "own basis"])


@torch.no_grad()
def engine_logits(model, file, ids, **inputs):
    with apply(model, file.plan, file.means):
        return model(ids, **inputs).logits


def of_mode(model, mode, heads):
    arch = adapter(model)
    means = 0.3 * torch.randn(arch.n_layer, arch.n_head, arch.d_head, generator=torch.Generator().manual_seed(2))
    return PlanFile.of(Plan.of(mode, heads), arch, means)


@pytest.fixture
def eager():
    model = gpt2()
    model.config._attn_implementation = "eager"
    return model


@BASES
@pytest.mark.parametrize("mode", MODES)
def test_hooks_do_what_the_engine_does(mode, folded):
    model, ids = gpt2(), tokens().long()
    file = of_mode(model, mode, [(0, 1), (0, 3), (2, 0)])
    expected = engine_logits(model, file, ids)
    model.config._attn_implementation = "eager"
    hooks = transformer_lens_hooks(file, folded=folded)
    torch.testing.assert_close(run_with_hooks(model, ids, hooks, folded=folded), expected, **TOLERANCE)


@pytest.mark.parametrize("mode", ["zero", "identity"])
def test_the_other_basis_is_another_intervention(eager, mode):
    ids = tokens().long()
    hooks = transformer_lens_hooks(of_mode(eager, mode, [(0, 1)]), folded=True)
    right, wrong = (run_with_hooks(eager, ids, hooks, folded=folded) for folded in (True, False))
    assert (right - wrong).abs().max() > 0.01


def test_modes_that_read_q_and_k_refuse_a_cache(eager):
    hooks = dict(transformer_lens_hooks(of_mode(eager, "factored", [(0, 1)]), folded=True))
    hooks["blocks.0.attn.hook_q"](torch.zeros(1, 1, 4, 8), hook=None)
    hooks["blocks.0.attn.hook_k"](torch.zeros(1, 1, 4, 8), hook=None)
    hooks["blocks.0.attn.hook_attn_scores"](torch.zeros(1, 4, 1, 5), hook=None)
    with pytest.raises(InputError, match="run without a key-value cache"):
        hooks["blocks.0.attn.hook_pattern"](torch.zeros(1, 4, 1, 5), hook=None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_edit_does_what_the_engine_does(make, mode):
    model, ids = make(), tokens().long()
    file = of_mode(model, mode, [(1, 1), (1, 2)])
    expected = engine_logits(model, file, ids)
    found = traced(model, lambda stand_in: nnsight_edit(stand_in, file), input_ids=ids)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_an_edit_keeps_the_padding(implementation):
    model, ids = qwen2(), tokens().long()
    file = of_mode(model, "relu", [(1, 1)])
    there = torch.ones_like(ids)
    there[0, :9] = 0
    expected = engine_logits(model, file, ids, attention_mask=there)
    model.config._attn_implementation = implementation
    found = traced(model, lambda stand_in: nnsight_edit(stand_in, file), input_ids=ids, attention_mask=there)
    torch.testing.assert_close(found[there == 1], expected[there == 1], **TOLERANCE)


def test_an_edit_refuses_a_cache_and_other_families():
    model, ids = gpt2(), tokens().long()
    file = of_mode(model, "relu", [(1, 1)])
    past = model(ids, use_cache=True).past_key_values
    with pytest.raises(InputError, match="pass use_cache=False"):
        traced(
            model,
            lambda stand_in: nnsight_edit(stand_in, file),
            input_ids=ids[:, :1],
            past_key_values=past,
            use_cache=True,
        )
    with pytest.raises(InputError, match="neither of the GPT-2 nor of the Llama type"):
        nnsight_edit(object(), file)


@pytest.fixture(scope="module")
def embedded():
    """The embedded model, every mode on some of its heads, a text, and what the engine says of it."""
    model = load_model(EMBEDDED)
    arch = adapter(model)
    heads = [(layer, head) for layer in range(arch.n_layer) for head in range(arch.n_head)][::3]
    means = 0.1 * torch.randn(arch.n_layer, arch.n_head, arch.d_head, generator=torch.Generator().manual_seed(5))
    plan = Plan(tuple((*at, list(MODES)[i % len(MODES)]) for i, at in enumerate(heads)))
    assert {mode for *_, mode in plan.heads} == set(MODES)
    file = PlanFile.of(plan, arch, means)
    ids = torch.randint(arch.vocab_size, (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        untouched = model(ids).logits
    return file, ids, engine_logits(model, file, ids), untouched


@BASES
def test_transformer_lens_itself(embedded, folded):
    lens = pytest.importorskip(
        "transformer_lens", reason="TransformerLens is not installed: pip install transformer_lens"
    )
    file, ids, expected, untouched = embedded
    model = lens_model(lens, folded)
    with torch.no_grad():
        plain = model(ids)
        found = model.run_with_hooks(ids, fwd_hooks=transformer_lens_hooks(file, folded=folded))
    for logits, known in ((plain, untouched), (found, expected)):
        torch.testing.assert_close(logits.log_softmax(-1), known.log_softmax(-1), **TOLERANCE)
    assert (expected.log_softmax(-1) - untouched.log_softmax(-1)).abs().max() > 0.1


def test_transformer_lens_where_keys_are_rotated(model_folders):
    lens = pytest.importorskip(
        "transformer_lens", reason="TransformerLens is not installed: pip install transformer_lens"
    )
    if not is_bridge():
        pytest.skip("TransformerLens before version 4 reads Llama's weights by their names on the hub alone")
    own = load_model(model_folders["llama"])
    arch = adapter(own)
    heads = [(layer, head) for layer in range(arch.n_layer) for head in range(arch.n_head)]
    means = 0.1 * torch.randn(arch.n_layer, arch.n_head, arch.d_head, generator=torch.Generator().manual_seed(5))
    plan = Plan(tuple((*at, mode) for at, mode in zip(heads, MODES, strict=True)))
    file = PlanFile.of(plan, arch, means)
    ids = torch.randint(arch.vocab_size, (2, 60), generator=torch.Generator().manual_seed(1))
    model = lens.TransformerBridge.boot_transformers(str(model_folders["llama"]), device="cpu")
    with torch.no_grad():
        found = model.run_with_hooks(ids, fwd_hooks=transformer_lens_hooks(file, folded=False, rotary=True))
    torch.testing.assert_close(found, engine_logits(own, file, ids), **TOLERANCE)


def is_bridge():
    return int(version("transformer_lens").split(".")[0]) >= 4


def lens_model(lens, folded):
    """The embedded model in TransformerLens, its weights processed by the defaults or not at all."""
    if is_bridge():
        model = lens.TransformerBridge.boot_transformers(str(EMBEDDED), device="cpu")
        if folded:
            model.enable_compatibility_mode(disable_warnings=True)
        return model
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    own = load_model(EMBEDDED)
    config = lens.HookedTransformerConfig(
        n_layers=own.config.n_layer, d_model=own.config.n_embd, n_ctx=own.config.n_positions,
        n_heads=own.config.n_head, d_head=own.config.n_embd // own.config.n_head, d_vocab=own.config.vocab_size,
        act_fn="gelu_new", normalization_type="LNPre" if folded else "LN", eps=own.config.layer_norm_epsilon,
        original_architecture="GPT2LMHeadModel", device="cpu",
    )  # fmt: skip
    model = lens.HookedTransformer(config)
    steps = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    model.load_and_process_state_dict(convert_gpt2_weights(own, config), **dict.fromkeys(steps, folded))
    return model


def test_nnsight_itself(embedded):
    nnsight = pytest.importorskip("nnsight", reason="nnsight is not installed: pip install nnsight")
    file, ids, expected, untouched = embedded
    model = nnsight.NNsight(load_model(EMBEDDED))
    with torch.no_grad():
        with model.trace(input_ids=ids):
            plain = model.lm_head.output.save()
        with model.trace(input_ids=ids):
            nnsight_edit(model, file)
            found = model.lm_head.output.save()
    torch.testing.assert_close(plain, untouched, **TOLERANCE)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("tool", [None, "transformer_lens", "nnsight"])
def test_the_page_s_examples_run(tool, tmp_path):
    if tool:
        pytest.importorskip(tool, reason=f"{tool} is not installed: pip install {tool}")
    page = (ROOT / "docs" / "other-tools.md").read_text(encoding="utf-8")
    write, *others = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    code = "\n".join([write, *(other for other in others if tool and f"from {tool} import" in other)])
    (tmp_path / "models").symlink_to(ROOT / "models")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert plan_file.read(tmp_path / "plan.json").plan == Plan.of("relu", [(1, 0), (3, 7)]) | Plan.of("zero", [(2, 1)])
