"""The measuring of a step itself; its figures mean something on a graphics card only."""

import pytest
import torch

from kaleido_core import KALEIDO_14B, VideoSize
from kaleido_core.offloading.arithmetic import forward_flops
from training.distributed import Ranks
from training.measure import Row, measure_steps, random_dit, step_flops, table, tokens_of

from .small_run import SIZES, small_config


def test_a_trained_weight_costs_two_products_more_than_a_forward_and_a_frozen_one_one():
    tokens = tokens_of(VideoSize(81, 512, 896))
    assert tokens == 43008
    forward, lora = (forward_flops(KALEIDO_14B, tokens), step_flops(KALEIDO_14B, tokens, full=False))
    assert step_flops(KALEIDO_14B, tokens, full=True) == pytest.approx(3 * forward)
    assert 2 * forward < lora < 3 * forward


def test_every_block_of_a_random_model_has_memory_of_its_own(tmp_path):
    dit = random_dit(SIZES, torch.device("cpu"))
    places = {parameter.data_ptr() for parameter in dit.parameters()}
    assert len(places) == len(list(dit.parameters())) and len(dit.blocks) == SIZES.num_layers


def test_real_steps_are_measured(tmp_path):
    blank = Row("small", (), "", 0, SIZES.num_layers, None)
    alone = Ranks(0, 1, torch.device("cpu"), 0, 1)
    (row,) = measure_steps(small_config(tmp_path), SIZES, [VideoSize(5, 32, 32)], blank, 1e12, 2, alone)
    assert row.seconds > 0 and row.mfu == pytest.approx(row.petaflops * 1e15 / row.seconds / 1e12)
    assert row.tokens == (2 + 3) * 4 and "32x32x5" in table([row])
