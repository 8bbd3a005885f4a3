"""The rope of a patched model has the core's positions."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kaleido_core import r_rope_positions
from kaleido_core.dit.rope import REFERENCE_OFFSET

from .conftest import Pack


def positions(t, h, w, t_start=0, transformer_options=None, **others: Any) -> Tensor:
    """As the host's ``rope_encode``, but the positions themselves: ``[1 N 3]``."""
    options = (transformer_options or {}).get("rope_options") or {}
    starts = t_start + options.get("shift_t", 0), options.get("shift_y", 0), options.get("shift_x", 0)
    axes = [start + torch.arange(n, dtype=torch.float32) for start, n in zip(starts, (t, h // 2, w // 2), strict=True)]
    return torch.cartesian_prod(*axes)[None]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_video_and_references_sit_where_the_core_puts_them(pack: Pack, count: int):
    patch = pack.module("nodes.model_patch")
    rope = patch.ReferenceRope(positions)
    host = rope(4 + count, 6, 10, transformer_options={patch.COUNT: count})[0]
    ours = r_rope_positions((4, 3, 5), [(1, 3, 5)] * count)
    references, video = ours[: 15 * count], ours[15 * count :]
    assert torch.equal(host, torch.cat([video, references]).float())


def test_other_shifts_move_video_and_references_together(pack: Pack):
    patch = pack.module("nodes.model_patch")
    options = {patch.COUNT: 1, "rope_options": {"shift_y": 2.0, "shift_t": 1.0}}
    shifted = patch.ReferenceRope(positions)(2, 4, 4, transformer_options=options)[0]
    plain = patch.ReferenceRope(positions)(2, 4, 4, transformer_options={patch.COUNT: 1})[0]
    assert torch.equal(shifted, plain + torch.tensor([1.0, 2.0, 0.0]))
    assert plain[-1].tolist() == [0, REFERENCE_OFFSET + 1, REFERENCE_OFFSET + 1]


def test_arguments_of_later_hosts_pass_through(pack: Pack):
    patch = pack.module("nodes.model_patch")
    seen = []
    rope = patch.ReferenceRope(lambda *a, **o: seen.append((a, o)) or positions(*a[:4]))
    rope(3, 4, 4, device="cpu", source_id=2, transformer_options={patch.COUNT: 1})
    assert all(options["source_id"] == 2 and options["device"] == "cpu" for _, options in seen) and len(seen) == 2
    forward = []
    patch.count_in_forward(lambda *a, **o: forward.append((a, o)), torch.zeros(1), 1, 2, None, None, {"a": 1}, extra=3)
    assert forward[0][0][-1] == {"a": 1, patch.COUNT: 0} and forward[0][1] == {"extra": 3}
