"""Kaleido Attention takes the place of the host's attention: for the calls that it covers, with the same numbers."""

import copy
import dataclasses
import importlib
import logging
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from kaleido_core.dit.attention import KERNELS, kernel_works

from .conftest import Pack, needs_host
from .test_graph import ROUNDING, distance, references_node, sample_node

WIDTH, HEADS = 128, 2
HERE = [name for name in KERNELS if kernel_works(name, torch.device("cpu"), torch.float32, WIDTH)]
ABSENT = [name for name in KERNELS[1:-1] if name not in HERE]


def tensors(separate: bool, width: int = WIDTH, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of 9 tokens, keys and values of 5, in either of the host's forms."""
    shapes = [(2, HEADS, n, width) if separate else (2, n, HEADS * width) for n in (9, 5, 5)]
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(shape, generator=random).to(dtype) for shape in shapes)
    return query, key, value


def make(pack: Pack, kernel: str = "auto", previous: Any = None) -> Any:
    return pack.module("nodes.attention_override").override_attention(kernel, previous)


def forward_once(pack: Pack, *inputs: Any) -> Tensor:
    """One step from noise to the end, without guidance: noise less the model's output."""
    named = dict(zip(("model", "positive", "negative", "latent"), inputs, strict=True))
    settings = {"seed": 7, "preset": "custom", "steps": 1, "cfg": 1.0, "shift": 3.0}
    return pack.run("KaleidoSampler", **named, **settings).args[0]["samples"]


def never(*args: Any, **named: Any) -> Tensor:
    raise AssertionError("the host's own attention was called")


def test_this_machine_has_kernels_to_compare():
    assert {"auto", "math"} <= set(HERE) and ABSENT


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("keep_separate", [False, True])
@pytest.mark.parametrize("kernel", HERE)
def test_every_form_of_a_call_gives_the_hosts_result(pack: Pack, kernel: str, separate: bool, keep_separate: bool):
    host: Any = importlib.import_module("comfy.ldm.modules.attention")
    form = {"skip_reshape": separate, "skip_output_reshape": keep_separate}
    theirs = host.optimized_attention(*tensors(separate), HEADS, **form)
    override = make(pack, kernel)
    options = {"optimized_attention_override": lambda _, *a, **o: override(never, *a, **o)}
    ours = host.optimized_attention(*tensors(separate), heads=HEADS, transformer_options=options, **form)
    assert ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-6)
    assert torch.equal(override(never, *tensors(separate), HEADS, None, None, *form.values()), ours)


FOREIGN = {
    "mask": {"mask": torch.ones(2, 1, 9, 5, dtype=torch.bool)},
    "scale": {"scale": 1.0},
    "grouped heads": {"enable_gqa": True},
    "higher precision": {"attn_precision": torch.float64},
    "of a later release": {"from_the_future": 3},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_call_with_more_to_it_goes_on_as_it_came(pack: Pack, case: str):
    q, k, v = tensors(False)
    assert make(pack)(lambda *a, **o: (a, o), q, k, v, HEADS, **FOREIGN[case]) == ((q, k, v, HEADS), FOREIGN[case])


def test_other_heads_and_types_go_to_the_host(pack: Pack):
    q, k, v = tensors(False)
    one_head = k[..., :WIDTH], v[..., :WIDTH]
    for case in (tensors(False, 64), tensors(False, dtype=torch.float64), (q, *one_head), (q, k[:1], v[:1])):
        assert make(pack)(lambda *a, **o: "host", *case, heads=HEADS) == "host"
    assert make(pack)(lambda *a, **o: "host", *tensors(True), heads=HEADS) == "host"  # the form is told wrong


def test_what_says_nothing_of_the_result_is_no_reason(pack: Pack):
    named = {"enable_gqa": False, "low_precision_attention": False, "_inside_attn_wrapper": True, "scale": None}
    plain = make(pack)(never, *tensors(False), HEADS)
    assert torch.equal(make(pack)(never, *tensors(False), HEADS, transformer_options={}, **named), plain)


def test_eight_bits_are_kept_from_calls_that_forbid_them(pack: Pack, monkeypatch):
    module = pack.module("nodes.attention_override")
    monkeypatch.setattr(module, "_takes_over", lambda *where: True)
    sage = module.AttentionOverride("sage", lambda q, k, v: q)
    assert sage(lambda *a, **o: "host", *tensors(False), HEADS, low_precision_attention=False) == "host"
    assert sage(never, *tensors(False), HEADS).shape == (2, 9, HEADS * WIDTH)


def test_the_other_override_gets_what_is_not_covered_and_a_second_node_replaces_the_first(pack: Pack):
    def other(host_attention: Any, *args: Any, **named: Any) -> str:
        return f"other before {host_attention}"

    twice = make(pack, "auto", make(pack, "math", other))
    assert twice(never, *tensors(False), HEADS).shape == (2, 9, HEADS * WIDTH)
    assert twice("host", *tensors(False, 64), HEADS) == "other before host" and twice.kernel == "auto"


def test_a_copy_of_the_options_still_works(pack: Pack):
    """Old hosts copy them deeply with every clone."""
    call = (never, *tensors(False), HEADS)
    assert torch.equal(copy.deepcopy(make(pack))(*call), make(pack)(*call))


@pytest.mark.parametrize("kernel", ABSENT)
def test_a_kernel_that_does_not_run_here_names_those_that_do(pack: Pack, kernel: str):
    with pytest.raises(ValueError, match=rf"{kernel} does not work on cpu in float32.*math.*auto"):
        make(pack, kernel)(never, *tensors(False), HEADS)


def test_without_sage_auto_works_and_sage_says_how_to_get_it(pack: Pack, demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "sageattention", None)
    pack.run("KaleidoAttention", model=demo[0], kernel="auto")
    with pytest.raises(ValueError, match="pip install sageattention"):
        pack.run("KaleidoAttention", model=demo[0], kernel="sage")


def test_on_a_device_of_another_kind_auto_leaves_the_choice_to_the_host(pack: Pack):
    module = pack.module("nodes.attention_override")
    assert not module._takes_over("auto", torch.device("meta"), torch.float32)


def test_the_choice_is_said_once(pack: Pack, caplog):
    pack.module("nodes.attention_override")._takes_over.cache_clear()
    with caplog.at_level(logging.INFO, "kaleido.nodes"):
        for _ in range(3):
            make(pack, "math")(never, *tensors(False), HEADS)
    assert [record.getMessage() for record in caplog.records] == ["attention of the model on cpu: math"]


@pytest.mark.parametrize("kernel", HERE)
def test_the_graph_breaks_nowhere_when_compiled(pack: Pack, kernel: str):
    override = make(pack, kernel)
    compiled = torch.compile(lambda q, k, v: override(never, q, k, v, heads=HEADS), backend="eager", fullgraph=True)
    assert torch.equal(compiled(*tensors(False)), override(never, *tensors(False), HEADS))


@pytest.mark.parametrize("kernel", HERE)
def test_the_models_output_is_the_same_and_every_layer_asks_for_the_kernel(pack: Pack, demo, pictures, kernel: str):
    model, *rest = references_node(pack, demo, pictures[:2])[:4]
    (patched,) = pack.run("KaleidoAttention", model=model, kernel=kernel).args
    options = patched.model_options["transformer_options"]
    override, calls = options["optimized_attention_override"], []
    counting = dataclasses.replace(override, attend=lambda *qkv: calls.append(qkv[0].shape) or override.attend(*qkv))
    options["optimized_attention_override"] = lambda _, *a, **o: counting(never, *a, **o)
    made, plain = (forward_once(pack, m, *rest) for m in (patched, model))
    assert len(calls) == 2 * model.model.diffusion_model.num_layers  # self- and cross-attention
    assert distance(made, plain) <= ROUNDING


def test_the_models_others_hold_keep_the_hosts_attention(pack: Pack, demo, pictures):
    model, *rest = references_node(pack, demo, pictures[:1])[:4]
    before = sample_node(pack, model, *rest)
    (patched,) = pack.run("KaleidoAttention", model=model, kernel="math").args
    pack.run("KaleidoAttention", model=patched, kernel="auto")
    assert not model.model_options["transformer_options"]
    assert patched.model_options["transformer_options"]["optimized_attention_override"].kernel == "math"
    assert torch.equal(before, sample_node(pack, model, *rest))


def test_before_or_behind_apply_is_the_same(pack: Pack, demo, pictures):
    plain = pack.adapter.load_demo()[0]
    _, *rest = references_node(pack, demo, pictures[:1])[:4]
    (attention_first,) = pack.run("KaleidoAttention", model=plain, kernel="auto").args
    (apply_last,) = pack.run("KaleidoApply", model=attention_first).args
    (apply_first,) = pack.run("KaleidoApply", model=plain).args
    (attention_last,) = pack.run("KaleidoAttention", model=apply_first, kernel="auto").args
    assert torch.equal(*(sample_node(pack, model, *rest) for model in (apply_last, attention_last)))


@needs_host
def test_before_or_behind_a_lora_is_the_same(pack: Pack, demo, pictures):
    loader: Any = importlib.import_module("comfy.sd")
    name, random = "diffusion_model.blocks.1.self_attn.q", torch.Generator().manual_seed(0)
    lora = {
        f"{name}.lora_A.weight": torch.randn(4, 256, generator=random),
        f"{name}.lora_B.weight": torch.randn(256, 4, generator=random) / 8,
    }
    model, *rest = references_node(pack, demo, pictures[:1])[:4]

    def attention(model: Any) -> Any:
        return pack.run("KaleidoAttention", model=model, kernel="auto").args[0]

    def with_lora(model: Any) -> Any:
        return loader.load_lora_for_models(model, None, lora, 1.0, 0)[0]

    made = [sample_node(pack, m, *rest) for m in (with_lora(attention(model)), attention(with_lora(model)))]
    assert torch.equal(*made) and distance(made[0], sample_node(pack, model, *rest)) > 1e-3


@needs_host
def test_all_attention_functions_of_the_host_can_stand_behind_it(pack: Pack):
    """A call that is not covered comes back to the host's function without a second override."""
    host: Any = importlib.import_module("comfy.ldm.modules.attention")
    override, mask = make(pack), torch.zeros(9, 5)
    for function in (host.attention_pytorch, host.attention_sub_quad, host.attention_split, host.attention_basic):
        options = {"optimized_attention_override": override}
        ours = function(*tensors(False), HEADS, mask=mask, transformer_options=options)
        assert torch.equal(ours, function(*tensors(False), HEADS, mask=mask))
