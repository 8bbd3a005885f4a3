import pytest
import torch

from kaleido_core import DiTConfig, KaleidoDiT, block_swap


@pytest.fixture
def dit():
    torch.manual_seed(0)
    return KaleidoDiT(DiTConfig(3, 24, 2, 32, 8)).eval().requires_grad_(False)


def run(dit):
    generator = torch.Generator().manual_seed(1)
    latent, context = torch.randn(1, 16, 1, 4, 4, generator=generator), torch.randn(1, 3, 8, generator=generator)
    return dit(latent, torch.tensor([0.5]), context)


@pytest.mark.parametrize("resident", [0, 1, 3])
def test_swapped_blocks_give_the_same_numbers(dit, resident):
    whole = run(dit)
    with block_swap(dit, resident=resident, device="cpu") as swapped:
        assert torch.equal(run(swapped), whole)
    assert torch.equal(run(dit), whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_only_the_resident_blocks_live_on_the_device(dit):
    with block_swap(dit, resident=1, device="cuda"):
        places = [{p.device.type for p in block.parameters()} for block in dit.blocks]
        assert places == [{"cuda"}, {"cpu"}, {"cpu"}] and dit.head.head.weight.device.type == "cuda"


def test_an_exception_brings_everything_home(dit):
    before = {name: value.data_ptr() for name, value in dit.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), block_swap(dit, resident=1, device="cpu"):
        raise KeyboardInterrupt
    assert {name: value.data_ptr() for name, value in dit.state_dict().items()} == before
    assert not any(block._forward_pre_hooks or block._forward_hooks for block in dit.blocks)
