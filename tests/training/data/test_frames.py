import numpy as np
import pytest
import torch

from kaleido_core import VideoSize
from kaleido_core.errors import DataError, KaleidoError
from kaleido_core.video import write_video
from training.data.frames import best_size, fill, official_indices, read_frames, read_sizes, whole_length


def test_the_official_rule_takes_the_official_frames(golden):
    rows = golden.info("dataset")["frame_selection"]["rows"]
    taken = [row for row in rows if "indices" in row]
    assert len(taken) > 15 and len(rows) - len(taken) >= 5
    for row in rows:
        arguments = row["video_frames"], row["video_fps"], row["max_num_frames"], row["fps"], row["skip"]
        if "indices" in row:
            assert official_indices(*arguments) == row["indices"], row
        else:
            with pytest.raises(DataError, match="official rule"):
                official_indices(*arguments)


def test_frames_are_scaled_and_cut_as_the_official_ones(golden):
    info, tensors = golden.info("dataset"), golden.tensors("dataset")
    for name, case in info["cases"].items():
        filled = fill(tensors[f"{name}.in"].to(torch.uint8), *case["target_hw"])
        expected = tensors[f"{name}.out"].reshape(filled.shape)
        assert (filled.int() - expected.int()).abs().max() <= 1, name
    for case in info["crop_geometry"]:
        height, width = case["in_hw"]
        # A picture of its own columns: what is left says where it was cut.
        ramp = torch.arange(width).mul(255 / width).to(torch.uint8).expand(1, 3, height, width)
        assert list(fill(ramp, *case["target_hw"]).shape[-2:]) == case["out_hw"]


def write(path, frames: int, fps: float, size=(32, 48)) -> str:
    """A video whose brightness tells the time: 10 levels a frame of a sixtieth second."""
    levels = np.arange(frames) * 200 / frames + 20
    clip = np.broadcast_to(levels.astype(np.uint8)[:, None, None, None], (frames, *size, 3))
    write_video(np.ascontiguousarray(clip), path, fps=fps)
    return str(path)


@pytest.mark.parametrize("fps", [12.0, 16.0, 24.0, 30.0, 60.0])
def test_by_time_every_rate_gives_the_same_sixteenths_of_a_second(tmp_path, fps):
    video = write(tmp_path / "a.mp4", int(2 * fps), fps)
    frames = read_frames(video, 0, None, [VideoSize(29, 32, 48)]).float().mean((1, 2, 3))
    times = torch.arange(29) / 16
    assert len(frames) == 29
    assert (frames - (20 + 200 * times / 2)).abs().max() < 200 / 2 / fps + 6  # within a frame, and the codec


def test_a_part_of_a_video_begins_and_ends_where_it_should(tmp_path):
    video = write(tmp_path / "a.mp4", 96, 24)
    whole = read_frames(video, 0, None, [VideoSize(61, 32, 48)]).float().mean((1, 2, 3))
    part = read_frames(video, 1.0, 2.5, [VideoSize(61, 32, 48)]).float().mean((1, 2, 3))
    assert len(part) == 21  # 24 frames in a second and a half: 4k + 1
    assert (part - whole[16:37]).abs().max() < 6


def test_the_official_rule_does_not_resample_and_pads(tmp_path):
    video = write(tmp_path / "a.mp4", 24, 24)
    frames = read_frames(video, 0, None, [VideoSize(33, 32, 48)], "official").float().mean((1, 2, 3))
    assert len(frames) == 33 and (frames[17:] == frames[-1]).all() and (frames[:17].diff() > 4).all()


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing of the kind")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(DataError, match=name):
            read_frames(str(tmp_path / name), 0, None, [VideoSize(5, 32, 48)])


def test_lengths_are_four_k_plus_one():
    assert [whole_length(frames) for frames in (0, 1, 4, 5, 8, 81, 84)] == [1, 1, 1, 5, 5, 81, 81]


def test_a_clip_takes_the_size_of_its_shape(tmp_path):
    sizes = read_sizes("64x32x5,32x64x9,32x32x5")
    assert [best_size(*shape, sizes) for shape in ((1920, 1080), (1080, 1920), (500, 480))] == list(sizes)
    video = write(tmp_path / "a.mp4", 30, 16, (60, 34))
    assert read_frames(video, 0, None, sizes).shape == (9, 3, 64, 32)
    for text in ("64x32", "a", "64x33x5", ""):
        with pytest.raises(KaleidoError):
            read_sizes(text)
