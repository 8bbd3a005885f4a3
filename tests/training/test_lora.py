"""LoRA: what is trained, what it changes, and that nothing else does."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kaleido_core import DiTConfig, KaleidoDiT, block_swap
from kaleido_core.errors import CheckpointError, ConfigError
from kaleido_core.quantization.quantize import quantize
from training.lora import LAYERS, PRESETS, LoRAConfig, add_lora, load_lora_state, lora_state

EVERYTHING = LoRAConfig(4, 8.0, ("all",))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(dtype: torch.dtype = torch.float32) -> KaleidoDiT:
    torch.manual_seed(1)
    return KaleidoDiT(DiTConfig(3, 48, 2, 64, 16), dtype=dtype).eval()


def run(dit: KaleidoDiT, sigma: float = 0.5) -> torch.Tensor:
    generator = seeded(2)
    latent, context = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 3, 16, generator=generator)
    return dit(latent, torch.tensor([sigma]), context, [torch.randn(1, 16, 1, 4, 4, generator=generator)])


def trained(dit: KaleidoDiT, config: LoRAConfig = EVERYTHING) -> list[nn.Parameter]:
    """With a ``lora_B`` that is not zero."""
    parameters = add_lora(dit, config, seeded())
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=seeded(3)) * 0.05)
    return parameters


def checkpoint_blocks(dit: KaleidoDiT) -> None:
    for block in dit.blocks:
        forward = block.forward
        block.forward = lambda *inputs, forward=forward: checkpoint(forward, *inputs, use_reentrant=False)


def test_a_new_lora_changes_nothing_and_only_it_is_trained():
    dit = model()
    before, names = run(dit), set(dit.state_dict())
    parameters = add_lora(dit, EVERYTHING, seeded())
    assert torch.equal(run(dit), before)
    assert parameters == [p for p in dit.parameters() if p.requires_grad] and len(parameters) == 3 * 10 * 2
    assert names < set(dit.state_dict()), "the base keeps its names"
    assert all(".lora_" in name for name in set(dit.state_dict()) - names)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_layers_of_the_model(preset: str):
    dit = model()
    add_lora(dit, LoRAConfig(2, 2.0, (preset,)), seeded())
    assert len(lora_state(dit)) == 3 * 3 * len(PRESETS[preset])
    assert {name for name, layer in dit.blocks[0].named_modules() if type(layer) is nn.Linear} == set(LAYERS)


def test_a_lora_is_its_product_added_to_the_weights():
    dit, merged = model(), model()
    trained(dit)
    state = lora_state(dit)
    with torch.no_grad():
        for name in (key.removesuffix(".alpha") for key in state if key.endswith(".alpha")):
            change = state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
            merged.get_parameter(f"{name}.weight").add_(state[f"{name}.alpha"] / 4 * change)
    assert (run(dit) - run(model())).abs().max() > 0.01
    assert torch.allclose(run(dit), run(merged), atol=1e-5)


def test_the_same_generator_draws_the_same_lora_and_a_state_restores_it():
    first, second, other = model(), model(), model(torch.bfloat16)
    trained(first)
    drawn = add_lora(second, EVERYTHING, seeded())
    assert all(torch.equal(a, b) for a, b in zip(drawn, add_lora(model(), EVERYTHING, seeded()), strict=True))
    load_lora_state(second, lora_state(first))
    assert torch.equal(run(second), run(first))
    assert add_lora(other, EVERYTHING, seeded(), torch.bfloat16)[0].dtype is torch.bfloat16
    load_lora_state(other, lora_state(first))


def test_a_state_of_another_lora_is_refused():
    dit, other = model(), model()
    add_lora(dit, EVERYTHING, seeded())
    add_lora(other, LoRAConfig(4, 8.0), seeded())
    with pytest.raises(CheckpointError, match=r"Missing: blocks.0.ffn.0.alpha.* and 13 more. Unexpected: none"):
        load_lora_state(dit, lora_state(other))
    for config in (LoRAConfig(2, 8.0, ("all",)), LoRAConfig(4, 4.0, ("all",))):
        another = model()
        add_lora(another, config, seeded())
        with pytest.raises(CheckpointError, match="another rank or alpha"):
            load_lora_state(dit, lora_state(another))
    with pytest.raises(ConfigError, match="already"):
        add_lora(dit, EVERYTHING, seeded())


@pytest.mark.parametrize("settings", [(0, 1.0), (4, 0.0), (4, 1.0, ("attn",)), (4, 1.0, ())])
def test_settings_that_make_no_lora_are_refused(settings):
    with pytest.raises(ConfigError):
        LoRAConfig(*settings)


@pytest.mark.parametrize("base", ["float32", "bf16", "fp8", "int8"])
def test_gradients_are_the_same_under_checkpointing_and_with_blocks_that_visit(base: str):
    def gradients(checkpointed: bool, resident: int = 3):
        dit = model(torch.bfloat16 if base == "bf16" else torch.float32)
        if base in ("fp8", "int8"):
            quantize(dit, base)
        parameters = trained(dit)
        if checkpointed:
            checkpoint_blocks(dit)
        with block_swap(dit, resident, "cpu"):
            return torch.autograd.grad(run(dit).square().mean(), parameters)

    plain = gradients(checkpointed=False)
    assert all(gradient.dtype is torch.float32 and gradient.abs().sum() > 0 for gradient in plain)
    for resident in (3, 1, 0):
        assert all(torch.equal(a, b) for a, b in zip(plain, gradients(True, resident), strict=True))


def test_a_lora_learns_on_an_eight_bit_base():
    dit = model()
    quantize(dit, "int8")
    target = run(model()).detach() + 0.3
    parameters = add_lora(dit, EVERYTHING, seeded())
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(30):
        loss = (run(dit) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
