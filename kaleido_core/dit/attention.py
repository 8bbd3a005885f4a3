"""Softmax attention without a mask: every token attends to every token, by the fastest exact kernel there is."""

import functools
import logging
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import ConfigError, first_line, warn_once

logger = logging.getLogger("kaleido.dit")

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # query [B A N K], key and value [B A M K] -> [B A N K]

EXACT = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
KERNELS = ("auto", *EXACT, "sage")
TRIED = ("cudnn", "flash", "efficient")  # by "auto"; "math" needs memory for every pair of tokens
TRIAL = 4096, 32768  # queries and keys: more of these than of those, as when tokens go a part at a time
CHECKED, ALIKE = 64, 2e-2  # queries of a trial that are compared, and the relative L2 that rounding may make
MATH_BYTES = 2**30  # of scores at most, float32


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``[B A N K]``, ``[B A M K]``, ``[B A M K]`` -> ``[B A N K]``, scaled by 1/sqrt(K); the fastest exact kernel."""
    if not query.is_cuda or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(query, key, value)
    kernel = fastest_kernel(query.device, query.dtype, query.shape[-1])
    if kernel == "math" and 4 * query.shape[:-1].numel() * key.shape[-2] > MATH_BYTES:
        raise ConfigError(
            f"{query.device} has no attention for {query.dtype} but one that keeps a score "
            f"of each pair of {key.shape[-2]:,} tokens. RTX 30 and later have; ComfyUI's own model runs in float16 too."
        )
    try:
        return attend_by(kernel)(query, key, value)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # it was chosen on other shapes
        warn_once("dit", f"Attention by torch's own choice, which may be slower; {kernel} refuses: {first_line(error)}")
        return F.scaled_dot_product_attention(query, key, value)


@functools.cache
def attend_by(kernel: str) -> Attend:
    """Attention by one kernel of ``KERNELS``. Raises ``ConfigError`` for one that is unknown or not installed.

    "sage" is SageAttention: eight bits inside, so its results differ a little; all others are exact.
    """
    if kernel == "auto":
        return attention
    if kernel == "sage":
        return _sage()
    if kernel not in EXACT:
        raise ConfigError(f"attention {kernel!r} is unknown; known are {', '.join(KERNELS)}. Choose one of these.")

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(EXACT[kernel]):
            return F.scaled_dot_product_attention(query, key, value)

    return attend


def _sage() -> Attend:
    try:
        from sageattention import sageattn  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "attention sage needs the package sageattention, which is not installed here. "
            "Install it (pip install sageattention) or choose auto."
        ) from error
    return lambda query, key, value: sageattn(query, key, value, tensor_layout="HND", is_causal=False)


@functools.cache
def kernel_works(kernel: str, device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether ``kernel`` is installed and computes such heads on ``device``; tried once a process, on a few tokens."""
    few = torch.zeros(1, 1, 64, head_width, device=device, dtype=dtype)
    try:
        attend_by(kernel)(few, few, few)
    except torch.OutOfMemoryError:
        raise
    except (ConfigError, RuntimeError, AssertionError, ValueError):  # a package says in its own way that it cannot
        return False
    return True


def use_attention(dit: nn.Module, kernel: str) -> None:
    """Let every attention layer of ``dit`` use ``kernel``, one of ``KERNELS``."""
    attend = attend_by(kernel)
    for layer in dit.modules():
        if hasattr(layer, "attend"):
            layer.attend = attend  # pyright: ignore[reportArgumentType]


@functools.cache
def fastest_kernel(device: torch.device, dtype: torch.dtype, head_width: int) -> str:
    """Which of ``TRIED`` is the fastest on ``device``; measured once a process, in a tenth of a second."""
    seconds = {kernel: _measure(kernel, device, dtype, head_width) for kernel in TRIED}
    best = min(TRIED, key=lambda kernel: seconds[kernel])
    if seconds[best] == float("inf"):
        best = "math"
    told = ", ".join(f"{kernel} {1000 * taken:.2f} ms" for kernel, taken in seconds.items() if taken < float("inf"))
    logger.info("attention on %s: %s (%s)", device, best, told or "no other works")
    return best


def _measure(kernel: str, device: torch.device, dtype: torch.dtype, head_width: int) -> float:
    """The best of three trials in seconds; infinite for a kernel that does not work here, or not rightly."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(count: int) -> Tensor:
        return split_heads(torch.randn(1, count, 8 * head_width, generator=generator, device=device, dtype=dtype), 8)

    query, key, value = draw(TRIAL[0]), draw(TRIAL[1]), draw(TRIAL[1])
    attend, seconds = attend_by(kernel), float("inf")
    few = query[:, :, :CHECKED]
    exact = F.scaled_dot_product_attention(few.float(), key.float(), value.float())
    try:
        if (attend(query, key, value)[:, :, :CHECKED] - exact).norm() > ALIKE * exact.norm():
            logger.warning("attention on %s: %s gives wrong numbers, and is left out", device, kernel)
            return seconds
        for _ in range(3):
            torch.cuda.synchronize(device)
            began = time.perf_counter()
            attend(query, key, value)
            torch.cuda.synchronize(device)
            seconds = min(seconds, time.perf_counter() - began)
    except torch.OutOfMemoryError:
        raise  # says nothing of the kernel
    except RuntimeError:
        return float("inf")
    return seconds


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """``[B N A*K]`` -> ``[B A N K]``."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``[B A N K]`` -> ``[B N A*K]``."""
    return x.transpose(1, 2).flatten(2)
