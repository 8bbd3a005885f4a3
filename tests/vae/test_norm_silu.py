import pytest
import torch
from torch.nn import functional

from ..triton_kernels import DEVICE

from kaleido_core.vae.norm_silu import norm_silu  # isort: skip


def values(*shape: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return drawn.to(DEVICE).contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("channels", [3, 16, 96])
@pytest.mark.parametrize("cut", [False, True])
def test_the_kernel_is_the_norm_then_silu_into_a_part_of_a_buffer(channels, cut):
    x = values(2, channels, 3, 5, 7)
    x = x[..., 1:4, 2:] if cut else x
    x[0, :, 0, 0, 0] = 0  # a vector without length
    gamma = torch.rand(channels, 1, 1, 1, device=DEVICE)
    buffer = torch.full((2, channels, 5, *x.shape[3:]), 7.0, device=DEVICE)
    buffer = buffer.contiguous(memory_format=torch.channels_last_3d)
    norm_silu(x, gamma, buffer[:, :, 2:])
    expected = functional.silu(functional.normalize(x, dim=1) * channels**0.5 * gamma)
    torch.testing.assert_close(buffer[:, :, 2:], expected, rtol=1e-5, atol=1e-6)
    assert (buffer[:, :, :2] == 7).all()
