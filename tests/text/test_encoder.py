import pytest
import torch

from kaleido_core.text.encoder import distance_buckets


@pytest.fixture(scope="module")
def encoder(golden):
    return golden.text_encoder("t5_weights", golden.info("t5_weights")["config"])


@pytest.fixture
def cases(golden):
    return golden.tensors("t5_cases")


def close(value, expected):
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["b1", "b3"])
def test_context_is_the_official_one_before_and_after_masking(encoder, cases, case):
    hidden = []
    hook = encoder.norm.register_forward_hook(lambda module, given, rows: hidden.append(rows))
    try:
        context = encoder(cases[f"{case}.ids"], cases[f"{case}.mask"])
    finally:
        hook.remove()
    close(hidden[0], cases[f"{case}.hidden"])
    close(context, cases[f"{case}.z"])
    assert torch.equal(context == 0, (cases[f"{case}.mask"] == 0)[..., None].expand_as(context))


def test_context_of_full_length_is_the_official_one(encoder, cases):
    context, rows = encoder(cases["len512.ids"], cases["len512.mask"]), cases["len512.z_real_rows"]
    close(context[:, : rows.shape[1]], rows)
    assert context.shape == (1, 512, rows.shape[2])
    assert not context[:, rows.shape[1] :].any()


def test_distance_buckets_are_the_official_ones(cases):
    assert torch.equal(distance_buckets(cases["bucket.rel_pos"], 32, 128), cases["bucket.bucket"])


def test_neither_padding_nor_neighbours_reach_a_text(encoder, cases):
    ids, mask = cases["b3.ids"], cases["b3.mask"]
    context = encoder(ids, mask)
    other_padding = torch.where(mask == 1, ids, 7)
    assert torch.equal(encoder(other_padding, mask), context)
    close(encoder(ids[2:, :13], mask[2:, :13]), context[2:, :13])
    close(encoder(ids[1:2], mask[1:2]), context[1:2])
