import pytest
import torch

from .triton_kernels import DEVICE, INTERPRETED

from kaleido_core import row_kernels  # isort: skip
from kaleido_core.dit import layers  # isort: skip
from kaleido_core.quantization.int8 import rescale  # isort: skip
from kaleido_core.quantization.linear import quantise_rows  # isort: skip


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


TOKENS, WIDTH = 21, 48
TABLE = values(2, 6, 1, WIDTH).unbind(1)
STEPS = {
    "layer_norm": (values(WIDTH), values(WIDTH + 1)[1:], 1e-6),
    "rms_norm": (values(WIDTH), 1e-6),
    "rotated_norm": (values(TOKENS, 8).cos(), values(TOKENS, 8).sin(), values(WIDTH), 1e-6),
    "modulated_norm": (TABLE[0], TABLE[4], 1e-6),
    "add_gated": (values(2, TOKENS, WIDTH) / 3, TABLE[2]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", STEPS)
def test_a_kernel_gives_the_numbers_of_its_step(name: str, dtype: torch.dtype):
    x = (2 + 3 * values(2, TOKENS, WIDTH)).to(dtype)
    ours = getattr(row_kernels, name)(x, *STEPS[name])
    exact = getattr(layers, name).__wrapped__(x.double(), *STEPS[name])
    assert ours.dtype == dtype and ours.is_contiguous()
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(ours.double(), exact.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", STEPS)
def test_a_part_of_the_tokens_gives_that_part(name: str):
    x, (first, *rest) = values(2, TOKENS, WIDTH), STEPS[name]
    whole = getattr(row_kernels, name)(x, first, *rest)
    if name == "rotated_norm":
        first, rest = first[5:9], [rest[0][5:9], *rest[1:]]
    if name == "add_gated":
        first = first[:, 5:9]
    assert torch.equal(getattr(row_kernels, name)(x[:, 5:9], first, *rest), whole[:, 5:9])


@pytest.mark.parametrize("limit, dtype", [(127, torch.int8), (448, torch.float8_e4m3fn)])
def test_rows_are_quantised_as_elsewhere(limit, dtype):
    rows = values(TOKENS, WIDTH).bfloat16() * torch.logspace(-2, 2, TOKENS, device=DEVICE)[:, None].bfloat16()
    rows[3] = 0
    (ours, scale), (theirs, expected) = (f(rows, limit, dtype) for f in (row_kernels.quantise_rows, quantise_rows))
    torch.testing.assert_close(scale, expected, rtol=1e-6, atol=0)
    if not (INTERPRETED and dtype.is_floating_point):  # the interpreter rounds float8 wrongly
        step = theirs.float().abs() / 8 if dtype.is_floating_point else 1
        far = (ours.float() - theirs.float()).abs()
        assert (far <= step).all() and (far > 0).float().mean() < 0.01  # a tie may fall either way


@pytest.mark.parametrize("bias", [None, values(WIDTH)])
def test_products_are_scaled_back(bias):
    product = (1000 * values(TOKENS, WIDTH)).int()
    given = product, values(TOKENS, 1), values(WIDTH), bias, torch.float32
    torch.testing.assert_close(row_kernels.rescale(*given), rescale(*given))
