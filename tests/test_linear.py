import pytest
import tiny_models
import torch
import torch.nn.functional as F

from lib.model.adapters import adapter
from lib.model.packed_linear import Linear, can_pack


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("n_rows", [1, 7, 300])
@pytest.mark.parametrize("with_bias", [True, False])
def test_products_against_float64(dtype, tolerance, n_rows, with_bias):
    draw = torch.Generator().manual_seed(1)
    weight, x = (torch.randn(shape, generator=draw).to(dtype) for shape in ((80, 48), (2, n_rows, 48)))
    bias = torch.randn(80, generator=draw).to(dtype) if with_bias else None
    resid = torch.randn(2, n_rows, 80, generator=draw).to(dtype)
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    linear = Linear(weight, bias)
    for found, expected in [
        (linear(x), exact),
        (linear.gelu(x), F.gelu(exact, approximate="tanh")),
        (linear.add(x, resid), exact + resid.double()),
    ]:
        assert found.dtype == dtype
        assert (found.double() - expected).norm() < tolerance * expected.norm()


def test_float64_is_left_as_it_is():
    assert not can_pack(torch.zeros(2, 2, dtype=torch.float64))
    assert not Linear(torch.zeros(2, 2, dtype=torch.float64)).packed


def logits(arch, ids):
    """A pass by the adapter's own steps, attention left out."""
    resid = arch.embed(ids)
    for layer in range(arch.n_layer):
        q, _, _ = arch.qkv(layer, resid)
        resid = arch.mlp(layer, arch.attention_out(layer, resid, q.transpose(1, 2).flatten(2)))
    return arch.logits(arch.final(resid))


@torch.inference_mode()
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_packed_at_once_or_one_by_one_or_again(family):
    model = tiny_models.MAKERS[family](vocab_size=97)
    ids = torch.arange(40)[None] % 97
    first = logits(arch := adapter(model), ids)
    n_packed = len(arch._linears)
    arch.let_go()
    assert not arch._linears
    arch.pack()
    packed = dict(arch._linears)
    assert len(packed) == n_packed > 1
    assert torch.equal(logits(arch, ids), first)
    assert arch._linears == packed
    arch.pack()
    assert arch._linears == packed
