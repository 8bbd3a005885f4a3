from dataclasses import replace

import pytest

from kaleido_core import DiTConfig, VideoSize
from kaleido_core.offloading.memory_plan import GIB, Machine, Work
from kaleido_core.offloading.native_plan import H200_FLOPS, H200_FLOPS_WITH_ATTENTION, plan_native

OFFICIAL = Work(VideoSize(81, 512, 896), references=3)


def test_the_official_clip_takes_what_the_native_model_took():
    plan = plan_native(OFFICIAL, Machine(141 * GIB, 200 * GIB))
    assert plan.activations == pytest.approx(4.16 * GIB, rel=0.01) and plan.resident == 40 and plan.fits


def test_the_arithmetic_takes_what_a_forward_took_with_and_without_kaleido_attention():
    flops = plan_native(OFFICIAL, Machine(141 * GIB, 200 * GIB)).flops / OFFICIAL.forwards
    assert flops / H200_FLOPS == pytest.approx(6.48, rel=0.01)
    assert flops / H200_FLOPS_WITH_ATTENTION == pytest.approx(4.59, rel=0.01)
    text = plan_native(OFFICIAL, Machine(24 * GIB, 64 * GIB)).text
    assert "11 min (8 min with Kaleido Attention) on an H200; 65 min (46 min" in text


def test_a_forward_without_references_is_the_shorter_one():
    machine = Machine(141 * GIB, 200 * GIB)
    three = plan_native(replace(OFFICIAL, bare_forwards=50), machine)
    bare = plan_native(replace(OFFICIAL, references=0, forwards=50), machine)
    assert three.flops == plan_native(OFFICIAL, machine).flops + bare.flops
    assert three.activations == plan_native(OFFICIAL, machine).activations


@pytest.mark.parametrize("vram", [4, 8, 12, 16, 24, 48, 80])
def test_more_memory_never_keeps_fewer_blocks_and_what_stays_fits(vram):
    plan = plan_native(OFFICIAL, Machine(vram * GIB, 64 * GIB))
    smaller = plan_native(OFFICIAL, Machine((vram - 1) * GIB, 64 * GIB))
    assert smaller.resident <= plan.resident
    on_card = plan.resident / plan.blocks * plan.weights
    if plan.resident:
        assert on_card + plan.activations < vram * GIB


def test_what_does_not_fit_comes_with_something_to_do():
    tight = plan_native(OFFICIAL, Machine(12 * GIB, 16 * GIB))
    assert not tight.fits and any("fp8" in line for line in tight.advice)
    tiny_card = plan_native(OFFICIAL, Machine(2 * GIB, 64 * GIB))
    assert not tiny_card.fits and any("smaller size" in line for line in tiny_card.advice)
    assert "GGUF" in tiny_card.advice[0], "the file first: it costs no picture"
    eight_bit = plan_native(Work(OFFICIAL.size, 3, weight_bytes=1), Machine(12 * GIB, 32 * GIB))
    assert eight_bit.fits and "fits" in eight_bit.text


def test_the_embedded_model_fits_anywhere():
    work = Work(VideoSize(17, 128, 128), 3, config=DiTConfig(10, 256, 2, 704, 128))
    assert plan_native(work, Machine(2 * GIB, 8 * GIB)).fits


@pytest.mark.parametrize(
    "weight_bytes, said",
    [(2.0, "a file in fp8 (half the size) or a GGUF Q4 file"), (1.0, "a GGUF Q4 file (half the size)"), (0.5625, None)],
)
def test_a_smaller_file_is_advised_where_there_is_one(weight_bytes, said):
    plan = plan_native(replace(OFFICIAL, weight_bytes=weight_bytes), Machine(8 * GIB, 64 * GIB))
    assert plan.resident < plan.blocks and (said in plan.text if said else "file" not in plan.text)
