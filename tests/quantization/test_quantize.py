import copy
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import nn

from kaleido_core import DiTConfig, KaleidoDiT, load_dit
from kaleido_core.errors import ConfigError
from kaleido_core.offloading.block_swap import block_swap
from kaleido_core.quantization import int8
from kaleido_core.quantization.quantize import FORMATS, check_format, quantize
from kaleido_core.request import Request

forms = pytest.mark.parametrize("form", FORMATS)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounding(form: str) -> str:
    """Both kinds of float8 round alike; they add up otherwise, on a card."""
    return form.removesuffix("_accurate")


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.fixture
def layer() -> nn.Linear:
    layer = nn.Linear(64, 48).requires_grad_(False)
    layer.weight.copy_(values(48, 64) * torch.logspace(-3, 1, 48)[:, None])  # rows of very different size
    layer.bias.copy_(values(48))
    return layer


@forms
def test_a_layer_stays_close_whatever_the_sizes_of_its_rows_and_tokens(form, layer):
    x = values(2, 21, 64, seed=1) * torch.logspace(-2, 2, 21)[:, None]
    ours, theirs = FORMATS[form](layer)(x), layer(x)
    assert ours.shape == theirs.shape and ours.dtype == x.dtype
    errors = (ours - theirs).norm(dim=(0, 1)) / theirs.norm(dim=(0, 1))
    assert errors.max() < {"fp8": 0.12, "int8": 0.03}[rounding(form)], "each output channel has a scale of its own"


@forms
def test_weights_are_their_scaled_values_rounded(form, layer):
    eight = FORMATS[form](layer)
    assert eight.weight.itemsize == 1 and eight.weight.shape == layer.weight.shape
    steps = {"fp8": layer.weight.abs() / 16 + eight.scale[:, None] * 2**-9, "int8": eight.scale[:, None] / 2}
    step = steps[rounding(form)]
    assert ((eight.weight.float() * eight.scale[:, None] - layer.weight).abs() <= step * 1.001).all()


@forms
@pytest.mark.parametrize("count", [1, 17, 40])
def test_any_number_of_tokens_and_rows_of_zeros(form, layer, count):
    eight = FORMATS[form](layer)
    assert torch.equal(eight(torch.zeros(count, 64)), layer.bias.expand(count, -1))
    whole = eight(values(count, 64))
    assert torch.allclose(torch.cat([eight(row[None]) for row in values(count, 64)]), whole, atol=1e-5)


def test_int8_tokens_a_few_at_a_time_give_the_same_bits(layer, monkeypatch):
    eight, x = FORMATS["int8"](layer), values(3, 11, 64)
    whole = eight(x)
    monkeypatch.setattr(int8, "BATCH_ROWS", 16)
    assert torch.equal(eight(x), whole)


@forms
def test_the_embedded_model_loses_little(form):
    dit = load_dit("tiny")
    latent, context = values(1, 16, 3, 16, 16), values(1, 64, 128, seed=2)
    references = [values(1, 16, 1, 16, 16, seed=3)]
    exact = dit(latent, torch.tensor([0.7]), context, references)
    plain = sum(value.nbytes for value in dit.state_dict().values())
    quantize(dit, form)
    assert (
        distance(dit(latent, torch.tensor([0.7]), context, references), exact)
        < {"fp8": 0.1, "int8": 0.04}[rounding(form)]
    )
    assert sum(value.nbytes for value in dit.state_dict().values()) < 0.6 * plain  # of bfloat16


def test_what_can_be_asked_for_is_a_format_or_refused_at_once():
    for form in FORMATS:
        Request("x", eight_bit=form)
    with pytest.raises(ConfigError, match="fp8, fp8_accurate, int8"):
        Request("x", eight_bit="fp4")


@forms
def test_only_the_linear_layers_of_the_blocks_change(form):
    dit = KaleidoDiT(DiTConfig(2, 64, 2, 96, 32)).requires_grad_(False)
    before = copy.deepcopy(dit)
    quantize(dit, form)
    kept = {name: value for name, value in before.state_dict().items() if name in dict(dit.named_parameters())}
    assert all(torch.equal(value, dit.get_parameter(name)) for name, value in kept.items())
    changed = {name for name, layer in dit.named_modules() if type(layer) is FORMATS[form]}
    assert changed == {name for name, layer in before.blocks.named_modules(prefix="blocks") if type(layer) is nn.Linear}
    assert len(changed) == 2 * 10


@forms
def test_eight_bit_blocks_can_visit(form):
    dit = quantize(KaleidoDiT(DiTConfig(3, 64, 2, 96, 32)).requires_grad_(False), form)
    inputs = values(1, 16, 1, 4, 4), torch.ones(1), values(1, 5, 32)
    exact = dit(*inputs)
    with torch.no_grad(), block_swap(dit, 1, "cpu"):
        assert torch.equal(dit(*inputs), exact)


def test_an_unknown_format_is_refused():
    with pytest.raises(ConfigError, match="fp8, fp8_accurate, int8"):
        quantize(KaleidoDiT(DiTConfig(1, 64, 2, 96, 32)), "fp4")


def test_the_card_is_asked_for_accurate_sums_by_that_format_only(monkeypatch):
    asked = []
    monkeypatch.setattr(
        torch, "_scaled_mm", lambda *_, use_fast_accum, **__: asked.append(use_fast_accum) or torch.zeros(2, 64)
    )
    for form in ("fp8", "fp8_accurate"):
        layer = FORMATS[form](nn.Linear(64, 64).requires_grad_(False))
        layer.multiply(cast(torch.Tensor, SimpleNamespace(is_cuda=True)), torch.ones(2, 1), torch.bfloat16)
    assert asked == [True, False]


@pytest.mark.parametrize("form, advice", [("fp8_accurate", "int8 works"), ("int8", "leave eight bits out")])
def test_a_card_that_refuses_a_format_is_found_out_at_once(form, advice, monkeypatch):
    def multiply(*_):
        raise errors[-1]

    errors: list[Exception] = [RuntimeError("torch._scaled_mm is only for compute capability >= 9.0\nand more")]
    check_format.cache_clear()
    monkeypatch.setattr(FORMATS[form], "multiply", multiply)
    with pytest.raises(ConfigError, match=rf"does not multiply {form} \(torch._scaled_mm .*9.0\); {advice}"):
        check_format(torch.device("cpu"), form)
    check_format(torch.device("cpu"), "fp8")
    errors.append(torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        check_format(torch.device("cpu"), form)


@forms
def test_gradients_reach_a_layers_input_through_its_weights_scaled_back(form, layer):
    eight, x = FORMATS[form](layer), values(2, 5, 64).requires_grad_()
    towards = values(2, 5, 48, seed=1)
    (gradient,) = torch.autograd.grad(eight(x), x, towards)
    assert torch.allclose(gradient, towards @ (eight.weight.float() * eight.scale[:, None]), atol=1e-5)
    assert not eight(x.detach()).requires_grad
