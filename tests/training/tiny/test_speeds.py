import torch

from kaleido_core import load_dit
from training.tiny.speeds import counted_blocks, likeness


def test_the_likeness_of_equal_clips_is_full_and_falls_with_the_error():
    clips = torch.rand(2, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    other = clips.clone()
    other[1] += 0.2
    equal, near = likeness(other, clips).tolist()
    assert equal == 99
    assert abs(near - 20) < 1e-3  # an error of a tenth of the range


def test_blocks_are_counted_while_open_only():
    dit = load_dit("tiny")
    latent, context = torch.randn(1, 16, 1, 4, 4), torch.randn(1, 8, dit.config.text_width)
    with counted_blocks(dit) as counts:
        dit(latent, torch.tensor([0.5]), context)
    dit(latent, torch.tensor([0.5]), context)
    assert counts == [1] * len(dit.blocks)
