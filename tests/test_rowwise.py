import pytest
import torch

from kaleido_core import rowwise
from kaleido_core.dit.layers import add_gated, layer_norm, modulated_norm, rms_norm, rotated_norm
from kaleido_core.dit.rope import rotate_pairs

TOKENS, WIDTH, HEADS = 21, 24, 3


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


TABLE = values(2, 1, WIDTH)
STEPS = {
    "layer_norm": (layer_norm, (values(2, TOKENS, WIDTH), values(WIDTH), values(WIDTH + 1)[1:], 1e-6)),
    "rms_norm": (rms_norm, (values(2, TOKENS, WIDTH), values(WIDTH), 1e-6)),
    "rotated_norm": (
        rotated_norm,
        (values(2, TOKENS, WIDTH), values(TOKENS, 4).cos(), values(TOKENS, 4).sin(), values(WIDTH), 1e-6),
    ),
    "modulated_norm": (modulated_norm, (values(2, TOKENS, WIDTH), TABLE, TABLE + 1, 1e-6)),
    "add_gated": (add_gated, (values(2, TOKENS, WIDTH), values(2, TOKENS, WIDTH) / 3, TABLE)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", STEPS)
def test_a_few_rows_at_a_time_give_the_same_bits(name: str, dtype: torch.dtype, monkeypatch):
    function, (x, *rest) = STEPS[name]
    with torch.no_grad():
        whole = function(x.to(dtype), *rest)
        monkeypatch.setattr(rowwise.by_rows, "__defaults__", ((), 4, None))
        assert torch.equal(function(x.to(dtype), *rest), whole) and whole.shape == x.shape


def test_rotated_norm_is_the_norm_and_then_the_rotation():
    _, (x, cos, sin, weight, eps) = STEPS["rotated_norm"]
    heads = rms_norm(x, weight, eps).unflatten(-1, (HEADS, -1)).transpose(1, 2)
    rotated = rotate_pairs(heads, cos, sin).transpose(1, 2).flatten(2)
    assert torch.equal(rotated_norm(x, cos, sin, weight, eps), rotated)


def test_gradients_go_through_all_rows_at_once():
    calls = []
    x = values(1, TOKENS, WIDTH).requires_grad_()
    rowwise.by_rows(lambda x: calls.append(len(x[0])) or 2 * x, (x,), rows=4).sum().backward()
    assert calls == [TOKENS] and x.grad is not None and (x.grad == 2).all()


def test_what_cannot_be_fused_runs_all_the_same_and_says_so_once(monkeypatch, caplog):
    def broken(function):
        def run(*_):
            raise RuntimeError("no compiler found\nand more")

        return run

    monkeypatch.setattr(rowwise, "can_fuse", lambda x: rowwise._works)  # as on a GPU
    monkeypatch.setattr(rowwise, "_works", True)
    monkeypatch.setattr(torch, "compile", broken)
    negative = rowwise.fused(torch.neg)
    assert torch.equal(negative(TABLE), -TABLE) and torch.equal(negative(TABLE), -TABLE)
    assert len(caplog.messages) == 1 and caplog.messages[0].endswith("no compiler found")


def test_what_has_worked_is_not_blamed_for_an_end_from_outside(monkeypatch):
    """Checkpointing stops its second forward by an exception, wherever that is; to go on would compute it all."""
    stops = []

    def step(x):
        if stops:
            raise RuntimeError("enough was computed again")
        return 2 * x

    monkeypatch.setattr(rowwise, "can_fuse", lambda _: True)
    monkeypatch.setattr(rowwise, "_compile", lambda function: function)
    monkeypatch.setattr(rowwise, "_works", True)
    run, x = rowwise.fused(step), values(1, TOKENS, WIDTH)
    run(x)
    stops.append(True)
    with pytest.raises(RuntimeError, match="enough"):
        run(x)
    assert rowwise._works


def test_a_table_that_learns_is_not_left_to_the_compiler(monkeypatch):
    monkeypatch.setattr(rowwise, "can_fuse", lambda _: True)
    monkeypatch.setattr(rowwise, "_compile", lambda _: pytest.fail("torch 2.11 gives such gradients another shape"))
    x, shift = values(1, TOKENS, WIDTH), values(1, 1, WIDTH).requires_grad_()
    modulated_norm(x, shift, values(1, 1, WIDTH), 1e-6).sum().backward()
    assert shift.grad is not None and shift.grad.shape == shift.shape
