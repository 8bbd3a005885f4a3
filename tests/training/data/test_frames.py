import subprocess

import imageio_ffmpeg
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
    """A video whose brightness grows evenly from 20 to 220."""
    levels = np.arange(frames) * 200 / frames + 20
    clip = np.broadcast_to(levels.astype(np.uint8)[:, None, None, None], (frames, *size, 3))
    write_video(np.ascontiguousarray(clip), path, fps=fps)
    return str(path)


def write_numbered(path, frames: int, fps: float) -> str:
    """A video whose frames carry their number, bit by bit, in eight columns."""
    numbers = np.arange(frames, dtype=np.uint8)[:, None]
    columns = np.unpackbits(numbers, axis=1).repeat(16, axis=1) * 255
    clip = np.broadcast_to(columns[:, None, :, None], (frames, 64, 128, 3))
    write_video(np.ascontiguousarray(clip), path, fps=fps)
    return str(path)


def numbers_of(frames: torch.Tensor) -> np.ndarray:
    bits = frames.float().mean((1, 2))[:, 8::16] > 127
    return np.packbits(bits.numpy(), axis=1)[:, 0].astype(int)


@pytest.mark.parametrize("fps", [12.0, 16.0, 24.0, 25.0, 30.0, 50.0, 60.0])
@pytest.mark.parametrize("container", ["mp4", "avi"])  # an AVI's clock ticks once a frame
def test_by_time_the_frame_nearest_to_every_sixteenth_of_a_second_is_taken(tmp_path, fps, container):
    video = write_numbered(tmp_path / "a.mp4", int(2.2 * fps), fps)
    if container == "avi":
        video = str(tmp_path / "a.avi")
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            "-i",
            str(tmp_path / "a.mp4"),
            "-c:v",
            "mjpeg",
            video,
        ]
        subprocess.run(command, check=True)
    taken = numbers_of(read_frames(video, 0, None, [VideoSize(29, 64, 128)]))
    assert len(taken) == 29
    assert np.abs(taken / fps - np.arange(29) / 16).max() <= 0.5 / fps + 1e-4


@pytest.mark.parametrize("t0", [0.03, 0.4, 0.7501])
def test_a_clip_that_begins_between_frames_neither_stutters_nor_jumps(tmp_path, t0):
    video = write_numbered(tmp_path / "a.mp4", 40, 16)
    taken = numbers_of(read_frames(video, t0, None, [VideoSize(13, 64, 128)]))
    assert (np.diff(taken) == 1).all() and 0 <= taken[0] / 16 - t0 <= 1 / 16


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


@pytest.mark.parametrize("frames", [1, 3])
def test_too_short_a_video_for_the_official_rule_is_named(tmp_path, frames):
    video = write(tmp_path / "a.mp4", frames, 16)
    with pytest.raises(DataError, match="official rule"):
        read_frames(video, 0, None, [VideoSize(5, 32, 48)], "official")


@pytest.mark.parametrize("rule", ["by_time", "official"])
def test_damage_that_ffmpeg_would_patch_is_told(tmp_path, rule):
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8)
    write_video(noise, tmp_path / "a.mp4")
    whole = (tmp_path / "a.mp4").read_bytes()
    half = len(whole) // 2
    for name, data in (("cut.mp4", whole[:half]), ("holes.mp4", whole[:half] + bytes(4000) + whole[half + 4000 :])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{name} is damaged"):
            read_frames(str(tmp_path / name), 0, None, [VideoSize(37, 64, 64)], rule)


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
    for text, said in (("64x32", "WIDTHx"), ("a", "WIDTHx"), ("", "WIDTHx"), ("64x33x5", "of 16"), ("64x32x6", "4k")):
        with pytest.raises(KaleidoError, match=said):
            read_sizes(text)
