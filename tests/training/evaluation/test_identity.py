import pytest
import torch
import torch.nn.functional as F

from kaleido_core.errors import ShapeError
from training.evaluation.identity import Search, all_found_rate, find_drawings, match_drawings

QUICK = Search(sizes=(34, 44), turns=8, steps=6)
DRAWINGS = 6


def sprites() -> torch.Tensor:
    """Discs with their own coarse pattern of colours: uint8 [M 4 64 64]."""
    generator = torch.Generator().manual_seed(0)
    colours = F.interpolate(torch.rand(DRAWINGS, 3, 3, 3, generator=generator), (64, 64), mode="nearest")
    pixel = torch.arange(64) - 31.5
    alpha = (torch.hypot(pixel[:, None], pixel) < 30).float().expand(DRAWINGS, 1, 64, 64)
    return (torch.cat([colours, alpha], 1) * 255).byte()


def frame(
    drawing: int, size: int = 40, place: tuple[int, int] = (30, 50), gain: float = 1.0, turn: int = 0, flip=False,
    drawings: torch.Tensor | None = None,
):  # fmt: skip
    """A 128-pixel frame of one drawing on grey, as a clip: [1 1 3 128 128] in -1..1."""
    sprite = (sprites() if drawings is None else drawings)[drawing : drawing + 1].float() / 255
    sprite = F.interpolate(sprite, (size, size), mode="bilinear", antialias=True).rot90(turn, (2, 3))
    sprite = sprite.flip(3) if flip else sprite
    canvas = torch.full((1, 3, 128, 128), 0.55)
    y, x = place
    area = canvas[..., y : y + size, x : x + size]
    area.copy_(area * (1 - sprite[:, 3:]) + (sprite[:, :3] * gain).clamp(0, 1) * sprite[:, 3:])
    return (canvas * 2 - 1)[None]


@pytest.mark.parametrize(
    "pose", [{}, {"size": 52, "place": (60, 8)}, {"turn": 1}, {"flip": True}, {"gain": 0.8}, {"size": 34, "turn": 2}]
)
def test_the_drawing_that_is_there_wins(pose):
    clips = torch.cat([frame(drawing, **pose) for drawing in (0, 3)])
    assert find_drawings(clips, sprites(), 1, search=QUICK).tolist() == [[0], [3]]


def test_a_plain_frame_shows_nobody():
    empty = match_drawings(torch.zeros(1, 1, 3, 128, 128), sprites(), search=QUICK).score
    there = match_drawings(frame(2), sprites(), search=QUICK).score
    assert empty.abs().max() < 0.05 * there[0, 2]


def test_an_absent_drawing_is_not_found():
    scores = match_drawings(frame(1), sprites(), search=QUICK).score
    assert scores.argmax() == 1 and scores[0, 1] > 2 * scores[0].sort().values[-2]


def test_a_rate_counts_clips_with_all_their_drawings_in_any_order():
    found = torch.tensor([[0, 1], [0, 2]])
    assert all_found_rate(found[:, :1], torch.tensor([[0], [2]])) == 0.5
    assert all_found_rate(found, torch.tensor([[1, 0], [0, 1]])) == 0.5


@pytest.mark.parametrize("flip", [False, True])
def test_the_second_subject_is_found_though_others_look_like_the_first(flip):
    both = frame(0, 44, (8, 8), flip=flip)
    area = (..., slice(70, 110), slice(70, 110))
    both[area] = frame(2, 40, (70, 70))[area]
    candidates = sprites()
    twin = candidates[:1].clone()
    twin[:, :3, :20] = candidates[1, :3, :20]  # much of the first subject
    found = find_drawings(both, torch.cat([candidates, twin]), 2, search=QUICK)
    assert sorted(found[0].tolist()) == [0, 2]


def test_two_subjects_that_look_alike_are_both_found():
    candidates = sprites()
    candidates[1] = candidates[0]
    candidates[1, :3, :14] = 255 - candidates[0, :3, :14]
    both = frame(0, 44, (8, 8))
    area = (..., slice(70, 104), slice(70, 104))
    both[area] = frame(1, 34, (70, 70), drawings=candidates)[area]
    assert sorted(find_drawings(both, candidates, 2, search=QUICK)[0].tolist()) == [0, 1]


def test_frames_that_are_not_square_are_refused():
    with pytest.raises(ShapeError, match="square"):
        match_drawings(torch.zeros(1, 1, 3, 64, 128), sprites())
