import logging

import pytest
import torch
import torch.nn.functional as F

from kaleido_core import DiTConfig, KaleidoDiT
from kaleido_core.dit import attention as module
from kaleido_core.dit.attention import EXACT, attend_by, attention, fastest_kernel, kernel_works, use_attention
from kaleido_core.errors import ConfigError

INF = float("inf")
QUERY, KEY, VALUE = torch.randn(3, 1, 2, 9, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def speeds(monkeypatch):
    """Seconds that the trials are said to take."""
    fastest_kernel.cache_clear()
    seconds = {"cudnn": 2.0, "flash": 1.0, "efficient": 3.0}
    monkeypatch.setattr(module, "_measure", lambda kernel, *where: seconds[kernel])
    yield seconds
    fastest_kernel.cache_clear()


class OnCard(torch.Tensor):
    is_cuda = True  # pyright: ignore[reportAssignmentType]


def choose() -> str:
    return fastest_kernel(torch.device("cpu"), torch.bfloat16, 128)


def test_the_fastest_kernel_is_taken_and_said_once(speeds, caplog):
    caplog.set_level(logging.INFO, "kaleido.dit")
    assert choose() == choose() == "flash"
    (line,) = caplog.messages
    assert "flash" in line and "2000.00 ms" in line


def test_kernels_that_do_not_work_here_are_passed_over(speeds):
    speeds.update(flash=INF, cudnn=INF)
    assert choose() == "efficient"


def test_with_none_of_them_there_is_still_one(speeds):
    speeds.update(flash=INF, cudnn=INF, efficient=INF)
    assert choose() == "math"


def test_a_kernel_that_refuses_other_shapes_than_it_was_chosen_on_is_not_forced_on_them(speeds, monkeypatch, caplog):
    def attend(*_):
        raise errors[-1]

    errors: list[Exception] = [RuntimeError("No available kernel. Aborting execution.")]
    monkeypatch.setattr(module, "attend_by", lambda kernel: attend)
    query, key, value = (x.as_subclass(OnCard) for x in (QUERY, KEY, VALUE))
    for _ in range(2):
        mixed = attention(query, key, value).as_subclass(torch.Tensor)
        assert torch.equal(mixed, F.scaled_dot_product_attention(QUERY, KEY, VALUE))
    assert len(caplog.messages) == 1 and "flash refuses: No available kernel" in caplog.messages[0]
    errors.append(torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        attention(query, key, value)


def test_scores_of_every_pair_are_kept_for_few_tokens_only(speeds, monkeypatch):
    """Cards before RTX 30 have no other kernel for bfloat16."""
    speeds.update(flash=INF, cudnn=INF, efficient=INF)
    query, key, value = (x.as_subclass(OnCard) for x in (QUERY, KEY, VALUE))
    assert attention(query, key, value).shape == QUERY.shape
    monkeypatch.setattr(module, "MATH_BYTES", 4 * 2 * 9 * 9 - 1)
    with pytest.raises(ConfigError, match="a score of each pair of 9 tokens"):
        attention(query, key, value)


def test_a_kernel_with_wrong_numbers_is_left_out(monkeypatch, caplog):
    exact = attend_by("math")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(module, "TRIAL", (80, 96))
    kernels = {"right": exact, "wrong": lambda query, key, value: exact(query, value, key)}
    monkeypatch.setattr(module, "attend_by", kernels.__getitem__)
    cpu = torch.device("cpu"), torch.bfloat16, 16
    assert 0 < module._measure("right", *cpu) < INF and module._measure("wrong", *cpu) == INF
    assert len(caplog.messages) == 1 and "wrong gives wrong numbers" in caplog.messages[0]


@pytest.mark.parametrize("kernel", ["math", "auto"])
def test_every_exact_kernel_is_softmax_attention(kernel: str):
    expected = (QUERY @ KEY.mT / 8**0.5).softmax(-1) @ VALUE
    assert torch.allclose(attend_by(kernel)(QUERY, KEY, VALUE), expected, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kernel", EXACT)
def test_exact_kernels_agree_on_a_gpu(kernel: str):
    query, key, value = torch.randn(3, 1, 4, 512, 128, device="cuda", dtype=torch.bfloat16)
    expected = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
    assert (attend_by(kernel)(query, key, value) - expected).norm() / expected.norm() < 1e-2


def test_an_unknown_kernel_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="cudnn, flash, efficient, math, sage"):
        attend_by("fast")


def test_a_kernel_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sageattention", None)
    with pytest.raises(ConfigError, match="pip install sageattention"):
        attend_by("sage")


def test_whether_a_kernel_works_is_told_without_failing(monkeypatch):
    kernel_works.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "sageattention", None)
    cpu = torch.device("cpu"), torch.float32, 128
    assert [kernel_works(kernel, *cpu) for kernel in ("auto", "math", "cudnn", "sage")] == [True, True, False, False]


def test_every_layer_takes_the_kernel_that_is_asked_for():
    dit = KaleidoDiT(DiTConfig(2, 64, 2, 96, 32))
    use_attention(dit, "math")
    chosen = [layer.attend for layer in dit.modules() if hasattr(layer, "attend")]
    assert len(chosen) == 4 and all(attend is attend_by("math") for attend in chosen)
    use_attention(dit, "auto")
    assert all(layer.attend is attention for layer in dit.modules() if hasattr(layer, "attend"))
