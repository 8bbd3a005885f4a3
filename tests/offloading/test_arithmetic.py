import pytest
import torch
from torch import nn

from kaleido_core import KALEIDO_14B, DiTConfig, KaleidoDiT
from kaleido_core.offloading.arithmetic import block_parameters, forward_flops, parameters_of, product_parameters


@pytest.mark.parametrize("config", [DiTConfig(2, 128, 2, 192, 64), DiTConfig(3, 256, 2, 704, 128)])
def test_parameters_are_counted_as_the_module_has_them(config):
    with torch.device("meta"):
        module = KaleidoDiT(config)
    block = module.blocks[0]
    products = [layer.weight.numel() for layer in block.modules() if isinstance(layer, nn.Linear)]
    assert parameters_of(config) == sum(value.numel() for value in module.parameters())
    assert block_parameters(config) == sum(value.numel() for value in block.parameters())
    assert product_parameters(config) == sum(products)


def test_the_official_clip_is_the_published_work_unit():
    assert parameters_of(KALEIDO_14B) == 14_288_491_584
    assert forward_flops(KALEIDO_14B, 43_008) == pytest.approx(2.56e15, rel=0.01)
