import copy

import pytest
import torch

from kaleido_core import DiTConfig, KaleidoDiT
from kaleido_core.errors import ShapeError

CASES = [
    *(("dit_small", c) for c in ("t2v_b1", "t2v_b2", "ref1_b1", "ref2_b1", "ref3_b1", "ref2_b2", "ref2_b2_shared")),
    *(("dit_small", c) for c in ("ref4_b1_over_limit", "dyn3_b1", "dyn2_b2")),
    *(("dit_h128", c) for c in ("t2v_b1", "ref3_b1", "dyn2_b1")),
]
TAPS = {
    "patch_embed": None,  # tokens before the first block: its input
    "time_emb": "time_embedding",
    "time_mod6": "time_projection",
    "context_emb": "text_embedding",
    "b0.attention_out": "blocks.0.self_attn",
    "b0.cross_attention_out": "blocks.0.cross_attn",
    "b0.mlp_out": "blocks.0.ffn",
}
INPUT_TAPS = {
    "b0.attention_in": "blocks.0.self_attn",
    "b0.cross_attention_in": "blocks.0.cross_attn",
    "b0.mlp_in": "blocks.0.ffn",
    "patch_embed": "blocks.0",
}


def run(dit, tensors, case, references):
    """The model on a golden case, its output time-first like the golden's."""
    latent, sigma = tensors[f"{case}.x"].transpose(1, 2), tensors[f"{case}.timesteps"] / 1000
    velocity = dit(latent, sigma, tensors[f"{case}.context"], references, allow_extra_references=len(references) > 3)
    return velocity.transpose(1, 2)


def record(dit, seen):
    """Keep what goes into and comes out of the parts the goldens look at."""
    modules = dict(dit.named_modules())
    hooks = []
    for tap, name in TAPS.items():
        if name:
            hooks.append(modules[name].register_forward_hook(lambda m, i, o, tap=tap: seen.update({tap: o})))
    for index in range(dit.config.num_layers):
        hook = modules[f"blocks.{index}"].register_forward_hook(
            lambda m, i, o, index=index: seen.update({f"block{index}": o, "before_final": o})
        )
        hooks.append(hook)
    for tap, name in INPUT_TAPS.items():
        hooks.append(modules[name].register_forward_pre_hook(lambda m, i, tap=tap: seen.update({tap: i[0]})))
    return hooks


@pytest.mark.parametrize(("model", "case"), CASES)
def test_output_and_intermediates_are_the_official_ones(golden, model, case):
    tensors, dit = golden.tensors(f"{model}_cases"), golden.dit(model)
    seen = {}
    record(dit, seen)
    velocity = run(dit, tensors, case, golden.references(tensors, case))
    torch.testing.assert_close(velocity, tensors[f"{case}.out"], rtol=0, atol=1e-5)
    names = [key.removeprefix(f"{case}.") for key in tensors if key.startswith(f"{case}.")]
    inputs = {"x", "timesteps", "context", "refs", "out", "out_bf16", "ref0", "ref1", "ref2"}
    taps = [name for name in names if name not in inputs]
    assert taps == [name for name in taps if name in seen], "a golden intermediate is not looked at"
    for name in taps:
        torch.testing.assert_close(
            seen[name], tensors[f"{case}.{name}"], rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("model", "case"), CASES)
def test_bfloat16_stays_close_to_float32(golden, model, case):
    tensors, dit = golden.tensors(f"{model}_cases"), golden.dit(model).bfloat16()
    velocity, exact = run(dit, tensors, case, golden.references(tensors, case)), tensors[f"{case}.out"]
    assert ((velocity - exact).norm() / exact.norm()).item() <= 1e-2


@pytest.fixture
def dit():
    torch.manual_seed(0)
    return KaleidoDiT(DiTConfig(2, 48, 2, 64, 32)).eval().requires_grad_(False)


def inputs(batch=1, references=2):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    latent, context = draw(batch, 16, 3, 4, 6), draw(batch, 5, 32)
    return latent, torch.full((batch,), 0.4), context, tuple(draw(1, 16, 1, 4, 6) for _ in range(references))


def test_the_order_of_references_matters_and_each_one_counts(dit):
    latent, sigma, context, (a, b) = inputs()
    both = dit(latent, sigma, context, (a, b))
    for other in ((b, a), (a,), (a, a), ()):
        assert (dit(latent, sigma, context, other) - both).abs().max() > 1e-4


def test_a_sample_does_not_depend_on_its_batch(dit):
    latent, sigma, context, references = inputs(batch=2)
    together = dit(latent, sigma, context, references)
    alone = torch.cat([dit(latent[i : i + 1], sigma[i : i + 1], context[i : i + 1], references) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_more_than_three_references_need_leave(dit):
    latent, sigma, context, references = inputs(references=4)
    with pytest.raises(ShapeError, match=r"4 references.*at most 3"):
        dit(latent, sigma, context, references)
    assert dit(latent, sigma, context, references, allow_extra_references=True).shape == latent.shape


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 16, 1, 3, 6), r"nearest size is \(1, 4, 6\)"), ((1, 16, 2, 4, 6), "clip of one frame")]
)
def test_references_of_wrong_shapes_are_refused(dit, shape, message):
    latent, sigma, context, _ = inputs()
    with pytest.raises(ShapeError, match=message):
        dit(latent, sigma, context, (torch.randn(shape),))


def test_inputs_are_left_as_they_were(dit):
    given = inputs()
    before = copy.deepcopy(given)
    dit(*given)
    for now, then in zip(given[:3], before[:3], strict=True):
        assert torch.equal(now, then)
    assert all(torch.equal(now, then) for now, then in zip(given[3], before[3], strict=True))
