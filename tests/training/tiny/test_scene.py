"""Laws of the composed clips, on a pack of plain squares and discs."""

import math
from dataclasses import replace

import pytest
import torch

from kaleido_core.errors import ConfigError
from training.tiny.captions import with_article, without_colour
from training.tiny.emoji import EmojiSet, is_held_out
from training.tiny.motion import LAYOUTS, NAMES
from training.tiny.photos import PHOTOS, PhotoSet
from training.tiny.render import render_clips, render_references
from training.tiny.scene import Scenes, Split, sample_scenes

FRAMES, SIZE = 5, 32
IDENTITIES = 24


def synthetic_emoji() -> EmojiSet:
    """Two drawings of each identity: a red left half and a blue right half, in a disc."""
    sprites = torch.zeros(2 * IDENTITIES, 4, 64, 64, dtype=torch.uint8)
    sprites[:, 0, :, :32] = 255
    sprites[:, 2, :, 32:] = 255
    pixel = torch.arange(64) - 31.5
    sprites[:, 3] = 255 * (torch.hypot(pixel[:, None], pixel) < 30)
    identity = torch.arange(IDENTITIES).repeat_interleave(2)
    return EmojiSet(
        sprites=sprites,
        names=tuple(f"thing{number}" for number in identity.tolist()),
        identity=identity,
        vendor=torch.tensor([0, 1]).repeat(IDENTITIES),
        held_out=identity < IDENTITIES // 2,
    )


EMOJI = synthetic_emoji()
PHOTO_SET = PhotoSet(torch.full((len(PHOTOS), 3, 256, 256), 90, dtype=torch.uint8), tuple(p.name for p in PHOTOS))


def scenes_of(references: int, seed: int = 0, split: Split = "train", count: int = 40) -> Scenes:
    return sample_scenes(EMOJI, count, references, seed, split, frames=FRAMES, size=SIZE)


@pytest.mark.parametrize("references", [0, 1, 2, 3])
def test_the_same_seed_gives_the_same_clips_and_another_seed_others(references):
    first, again, other = scenes_of(references), scenes_of(references), scenes_of(references, seed=1)
    assert first.captions == again.captions != other.captions
    clips = [render_clips(scenes[:4], EMOJI, PHOTO_SET, "cpu") for scenes in (first, again, other)]
    assert torch.equal(clips[0], clips[1]) and not torch.equal(clips[0], clips[2])


def test_the_splits_never_share_an_identity():
    train = {number for references in range(4) for number in scenes_of(references).identity.unique().tolist()}
    held_out = {
        n for references in range(4) for n in scenes_of(references, split="held_out").identity.unique().tolist()
    }
    assert train & held_out <= {-1}
    assert held_out - {-1} <= set(EMOJI.identity[EMOJI.held_out].tolist())


def test_both_drawings_of_a_codepoint_fall_on_the_same_side_of_the_split():
    assert is_held_out("1F34E") == is_held_out("1F34E")
    share = sum(is_held_out(f"{code:X}") for code in range(0x1F300, 0x1F900)) / 0x600
    assert 0.13 < share < 0.23


@pytest.mark.parametrize("references", [0, 1, 2, 3])
def test_there_is_one_reference_image_per_subject_in_range(references):
    scenes = scenes_of(references, count=6)
    clips, pictures = render_clips(scenes, EMOJI, PHOTO_SET, "cpu"), render_references(scenes, EMOJI, PHOTO_SET, "cpu")
    assert clips.shape == (6, 3, FRAMES, SIZE, SIZE)
    assert [tuple(picture.shape) for picture in pictures] == [(6, 3, 1, SIZE, SIZE)] * references
    for picture in (clips, *pictures):
        assert picture.dtype == torch.float32 and picture.min() >= -1 and picture.max() <= 1


def test_subjects_of_a_clip_differ():
    for row in scenes_of(3).identity.tolist():
        assert len(set(row)) == 3


@pytest.mark.parametrize("references", [1, 2, 3])
def test_a_reference_shows_the_clips_identity_larger_than_any_frame_does(references):
    scenes = scenes_of(references, count=200)
    assert torch.equal(EMOJI.identity[scenes.references.sprite], scenes.identity)
    assert (scenes.references.pose[..., 2] > scenes.poses[..., 2].amax(2)).all()
    swapped = (scenes.references.sprite != scenes.sprite).float().mean()
    assert 0.02 < swapped < 0.15


def test_captions_name_the_subjects_in_the_order_of_the_references():
    for references in (2, 3):
        scenes = scenes_of(references, split="held_out")
        for caption, drawings in zip(scenes.captions, scenes.sprite.tolist(), strict=True):
            words = caption.lower().replace(",", " ").replace(".", " ").replace(";", " ").split()
            places = [words.index(EMOJI.names[drawing]) for drawing in drawings]
            assert places == sorted(places)
            assert len(words) <= 40


def test_badges_are_worn_in_training_only_and_are_no_held_out_drawings():
    assert (scenes_of(1, split="held_out").badge == -1).all()
    badge = scenes_of(2).badge
    worn = badge >= 0
    assert 0.35 < worn.float().mean() < 0.65
    assert not EMOJI.held_out[badge[worn]].any()


def test_a_badge_is_seen_on_its_subject_in_clip_and_reference():
    scenes = scenes_of(1, count=12)
    bare = replace(scenes, badge=torch.full_like(scenes.badge, -1))

    def changed(render) -> torch.Tensor:
        return (render(scenes) != render(bare)).flatten(1).any(1)

    assert torch.equal(changed(lambda s: render_clips(s, EMOJI, PHOTO_SET, "cpu")), scenes.badge[:, 0] >= 0)
    assert torch.equal(changed(lambda s: render_references(s, EMOJI, PHOTO_SET, "cpu")[0]), scenes.badge[:, 0] >= 0)


def test_recoloured_subjects_exist_only_in_training_and_carry_over_to_the_reference():
    plain = torch.eye(3).expand(40, 1, 3, 3)
    assert torch.equal(scenes_of(1, split="held_out").colour, plain)
    changed = (scenes_of(1).colour != plain).flatten(1).any(1).float().mean()
    assert 0.2 < changed < 0.6


def test_a_slice_renders_as_its_part_of_the_whole():
    scenes = scenes_of(2, count=12)
    picked = torch.tensor([7, 2])
    whole = render_clips(scenes, EMOJI, PHOTO_SET, "cpu", chunk=5)
    assert torch.allclose(render_clips(scenes[3:6], EMOJI, PHOTO_SET, "cpu"), whole[3:6], atol=1e-5)
    assert torch.allclose(render_clips(scenes[picked], EMOJI, PHOTO_SET, "cpu"), whole[picked], atol=1e-5)
    pictures = render_references(scenes, EMOJI, PHOTO_SET, "cpu")
    assert torch.allclose(render_references(scenes[picked], EMOJI, PHOTO_SET, "cpu")[1], pictures[1][picked], atol=1e-5)


def test_subjects_stay_inside_the_frame():
    for references in (1, 2, 3):
        poses = scenes_of(references, count=300).poses
        x, y, side = poses[..., 0], poses[..., 1], poses[..., 2]
        assert (x.abs() + side).max() < 1.06 and (y.abs() + side).max() < 1.06


def test_a_positive_angle_turns_clockwise():
    scenes = scenes_of(1, split="held_out", count=1)
    upright = torch.tensor([0.0, 0.0, 1.0, 0.0])
    turned = torch.tensor([0.0, 0.0, 1.0, math.pi / 2])
    scenes.poses[0, 0, 0], scenes.poses[0, 0, 1], scenes.mirror[:] = upright, turned, 1.0
    clip = render_clips(scenes, EMOJI, PHOTO_SET, "cpu")[0]
    assert clip[0, 0, 16, 8] > 0.9 > clip[0, 0, 16, 24]  # red on the left
    assert clip[0, 1, 8, 16] > 0.9 > clip[0, 1, 24, 16]  # and then on top


def test_a_half_covered_pixel_has_no_dark_fringe():
    scenes = scenes_of(1, split="held_out", count=1)
    scenes.backdrop.kind[:], scenes.backdrop.colours[:] = 0, torch.tensor([1.0, 0, 0])
    scenes.poses[..., 0], scenes.mirror[:] = 0.3, 1.0
    clip = render_clips(scenes, EMOJI, PHOTO_SET, "cpu")[0]
    red_or_blue = clip[0] + clip[2] + 2  # 2 wherever red, blue or a mixture is fully lit
    assert red_or_blue.min() > 1.97


def test_every_motion_has_a_layout():
    assert {name for layout in LAYOUTS for seat in layout.motions for name in seat} == set(NAMES)


def test_wording():
    assert without_colour("red apple") == "apple" and without_colour("green heart") == "heart"
    assert without_colour("orange") == "orange"
    assert with_article("owl", 0) == "an owl" and with_article("unicorn face", 0) == "a unicorn face"
    assert with_article("grapes", 0) == "grapes" and with_article("dog", 2) == "the dog"


def test_four_references_are_refused():
    with pytest.raises(ConfigError, match="0 to 3"):
        scenes_of(4)
