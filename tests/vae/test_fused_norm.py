"""Whether the autoencoder takes its kernel: proven once, before a clip depends on it."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from kaleido_core.vae.layers import fused_norm_silu

CPU = torch.device("cpu")


@pytest.fixture
def kernel(monkeypatch):
    """Puts a function in the kernel's place."""
    fused_norm_silu.cache_clear()
    name = "kaleido_core.vae.norm_silu"
    yield lambda function: monkeypatch.setitem(sys.modules, name, function and SimpleNamespace(norm_silu=function))
    fused_norm_silu.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_that_gives_the_right_numbers_is_taken(kernel, dtype):
    def right(x, gamma, out):
        out.copy_(F.silu(x.float() / x.float().norm(dim=1, keepdim=True) * 2 * gamma.view(1, -1, 1, 1, 1)))

    kernel(right)
    assert fused_norm_silu(CPU, dtype) is right


def test_without_a_compiler_or_a_triton_the_plain_steps_are_taken_and_it_is_said_once(kernel, caplog):
    def no_compiler(*_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    kernel(no_compiler)
    assert [fused_norm_silu(CPU, dtype) for dtype in (torch.float32, torch.float32, torch.bfloat16)] == [None] * 3
    assert len(caplog.messages) == 1 and caplog.messages[0].endswith("Failed to find C compiler.")
    fused_norm_silu.cache_clear()
    kernel(None)  # as where Triton is not installed
    assert fused_norm_silu(CPU, torch.float32) is None


def test_wrong_numbers_are_no_reason_to_go_on(kernel):
    kernel(lambda x, gamma, out: out.copy_(x))
    assert fused_norm_silu(CPU, torch.float32) is None


def test_too_little_memory_says_nothing_of_the_kernel(kernel):
    def full(*_):
        raise torch.OutOfMemoryError("full")

    kernel(full)
    with pytest.raises(torch.OutOfMemoryError):
        fused_norm_silu(CPU, torch.float32)
