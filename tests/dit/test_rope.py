import pytest
import torch

from kaleido_core import apply_rotary, r_rope_positions, rotary_angles

CASES = {
    "rrope_d32": ("refs2", "dynamic2"),
    "rrope_d128": ("refs1", "refs2", "refs3", "refs3_b2", "refs4_over_limit", "dynamic3", "dynamic1_larger"),
}
ALL = [(file, case) for file, cases in CASES.items() for case in cases]


def positions_of(info):
    grids = [(1, *grid) for grid in info["refs_grid"]]
    return r_rope_positions(tuple(info["video_grid"]), grids)


@pytest.mark.parametrize(("file", "case"), ALL)
def test_positions_angles_and_rotation_are_the_official_ones(golden, file, case):
    tensors, info = golden.tensors(file), golden.info(file)
    positions = positions_of(info["cases"][case])
    assert torch.equal(positions, tensors[f"{case}.pos"])
    angles = rotary_angles(positions, info["config"]["head_dim"])
    for part, values in (("cos", angles.cos()), ("sin", angles.sin())):
        torch.testing.assert_close(values.repeat_interleave(2, dim=1), tensors[f"{case}.{part}"], rtol=0, atol=1e-5)
    for name in ("q", "k"):
        if f"{case}.{name}_out" in tensors:
            rotated = apply_rotary(tensors[f"{case}.{name}_in"], angles)
            torch.testing.assert_close(rotated, tensors[f"{case}.{name}_out"], rtol=0, atol=2e-5)


def test_full_size_positions_are_the_official_ones(golden):
    tensors = golden.tensors("rrope_d128")
    case = "prod_512x896_81f_3refs"
    positions = positions_of(golden.info("rrope_d128")["cases"][case])
    assert len(positions) == 43008
    positions = positions[tensors[f"{case}.token_index"]]
    assert torch.equal(positions, tensors[f"{case}.pos"])
    cos = rotary_angles(positions, 128).cos().repeat_interleave(2, dim=1)
    torch.testing.assert_close(cos, tensors[f"{case}.cos"], rtol=0, atol=1e-5)


def test_bfloat16_rotation_is_bit_equal_to_the_official_one(golden):
    tensors = golden.tensors("ops")
    positions = r_rope_positions((2, 2, 3), [(1, 2, 3), (1, 2, 3)])
    rotated = apply_rotary(tensors["rope_bf16.q_in"], rotary_angles(positions, 32))
    assert torch.equal(rotated, tensors["rope_bf16.q_out"])


def test_references_never_share_a_position_with_the_video_or_each_other():
    positions = r_rope_positions((3, 4, 6), [(1, 4, 6), (1, 2, 5), (1, 6, 2)])
    assert len(positions.unique(dim=0)) == len(positions)


def test_rotation_keeps_lengths_and_depends_only_on_distance():
    x, y = torch.randn(2, 1, 1, 1, 24)
    here, there = torch.tensor([[3, 5, 7]]), torch.tensor([[10, 1, 20]])
    step = torch.tensor([[2, 9, 4]])

    def product(a, b):
        return (apply_rotary(x, rotary_angles(a, 24)) * apply_rotary(y, rotary_angles(b, 24))).sum()

    torch.testing.assert_close(product(here, there), product(here + step, there + step), rtol=0, atol=1e-4)
    torch.testing.assert_close(apply_rotary(x, rotary_angles(here, 24)).norm(), x.norm())


def test_a_video_that_reaches_the_references_positions_is_warned_about_once(caplog):
    for _ in range(2):
        r_rope_positions((1, 82, 4), [(1, 2, 2)])
    assert len(caplog.records) == 1 and "82 x 4 patches" in caplog.text
    r_rope_positions((1, 80, 80), [(1, 2, 2)])
    assert len(caplog.records) == 1, "80 still fits"
