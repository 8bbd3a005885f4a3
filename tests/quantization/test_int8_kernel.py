import pytest
import torch

from ..triton_kernels import DEVICE, INTERPRETED

from kaleido_core.quantization.int8 import int8_linear  # isort: skip
from kaleido_core.quantization.int8_kernel import int8_linear as kernel  # isort: skip

if not INTERPRETED and torch.cuda.get_device_capability()[0] != 9:
    pytest.skip("made for Hopper cards", allow_module_level=True)


@pytest.mark.parametrize("rows, columns, depth", [(100, 48, 64), (300, 512, 256), (17, 272, 144)])
@pytest.mark.parametrize("biased", [False, True])
def test_the_kernel_gives_what_torch_gives(rows, columns, depth, biased):
    generator = torch.Generator().manual_seed(rows)
    values, weight = (torch.randint(-127, 128, (n, depth), generator=generator).to(torch.int8) for n in (rows, columns))
    scale, weight_scale = torch.rand(rows, 1, generator=generator), torch.rand(columns, generator=generator)
    bias = torch.randn(columns, generator=generator).bfloat16() if biased else None
    values, scale, weight, weight_scale = (x.to(DEVICE) for x in (values, scale, weight, weight_scale))
    bias = None if bias is None else bias.to(DEVICE)
    ours = kernel(values, scale, weight, weight_scale, bias, torch.bfloat16)
    theirs = int8_linear(values, scale, weight, weight_scale, bias, torch.bfloat16)
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=0.1)
