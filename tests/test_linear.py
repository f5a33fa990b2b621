import pytest
import torch
import torch.nn.functional as F

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
