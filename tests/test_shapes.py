import pytest
import torch

from kaleido_core import Conditioning, VideoSize
from kaleido_core.errors import ShapeError
from kaleido_core.shapes import check_reference_count, nearest_frames, nearest_side


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((82, 512, 896), r"82 frames.*nearest is 81\b"),
        ((84, 512, 896), r"84 frames.*nearest is 85\b"),
        ((0, 512, 896), r"0 frames.*nearest is 1\b"),
        ((-3, 512, 896), r"-3 frames.*nearest is 1\b"),
        ((81, 500, 896), r"height 500.*nearest is 496\b"),
        ((81, 512, 905), r"width 905.*nearest is 912\b"),
        ((81, 0, 896), r"height 0.*nearest is 16\b"),
        ((81, 512, -16), r"width -16.*nearest is 16\b"),
    ],
)
def test_a_size_that_does_not_fit_names_the_nearest_that_does(size, message):
    with pytest.raises(ShapeError, match=message):
        VideoSize(*size)


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2), (17, 5), (81, 21), (121, 31)])
def test_frames_fold_by_four_after_the_first(frames, latent_frames):
    size = VideoSize(frames, 48, 64)
    assert size.latent_frames == latent_frames
    assert size.latent_shape() == (1, 16, latent_frames, 6, 8)
    assert size.latent_shape(channels=4, batch=2) == (2, 4, latent_frames, 6, 8)


@pytest.mark.parametrize(
    ("nearest", "step", "offset"), [(nearest_frames, 4, 1), (nearest_side, 16, 0)], ids=["frames", "side"]
)
def test_the_nearest_value_is_valid_stays_itself_and_is_nearest(nearest, step, offset):
    for value in range(1, 200):
        found = nearest(value)
        assert found > 0 and found % step == offset
        assert nearest(found) == found
        assert abs(found - value) <= step // 2 or found == step + offset * (1 - step)


def test_what_is_called_nearest_is_accepted():
    for value in range(-20, 60):
        VideoSize(nearest_frames(value), nearest_side(value), nearest_side(3 * value))


def test_more_than_three_references_need_leave():
    context, reference = torch.zeros(1, 2, 8), torch.zeros(1, 16, 1, 2, 2)
    with pytest.raises(ShapeError, match=r"4 references.*at most 3.*allow_extra_references=True"):
        Conditioning(context, (reference,) * 4)
    assert len(Conditioning(context, (reference,) * 4, allow_extra_references=True).references) == 4
    for count in range(4):
        assert len(Conditioning(context, (reference,) * count).references) == count
        check_reference_count(count)
