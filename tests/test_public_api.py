"""The frozen names and their signatures: what users, nodes and training were promised."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import kaleido_core

NAMES = """
    KALEIDO_14B DiTConfig VAEConfig TextConfig VideoSize Conditioning Step
    KaleidoDiT WanVAE UMT5Encoder
    load_dit load_vae load_text_encoder load_tokenizer
    letterbox encode_references initial_noise sigma_schedule sample generate
    r_rope_positions rotary_angles apply_rotary block_swap write_video
""".split()  # noqa: SIM905

SIGNATURES = {
    "KaleidoDiT": "config device=None dtype=None",
    "KaleidoDiT.forward": "self latent sigma context references=()",
    "WanVAE": "config",
    "WanVAE.encode": "self pixels",
    "WanVAE.decode": "self latent",
    "UMT5Encoder": "config",
    "UMT5Encoder.forward": "self token_ids mask",
    "r_rope_positions": "grid reference_grids offset=80",
    "rotary_angles": "positions head_width",
    "apply_rotary": "x angles",
    "load_dit": "path config=None device='cpu' dtype=None",
    "load_vae": "path config=None",
    "load_text_encoder": "path config=None",
    "load_tokenizer": "path",
    "letterbox": "image height width",
    "encode_references": "encode images size",
    "initial_noise": "shape seed",
    "sigma_schedule": "steps shift",
    "sample": "dit noise sigmas cond uncond=None cfg=6.0 solver='euler' on_step=None",
    "write_video": "frames path fps=16 metadata=None",
}
FIELDS = {
    "DiTConfig": "num_layers width num_heads mlp_width text_width latent_channels=16 patch_size=(1, 2, 2) "
    "frequency_width=256 eps=1e-06",
    "TextConfig": "vocab_size width attention_width mlp_width num_heads num_layers num_buckets=32 max_distance=128",
    "VideoSize": "frames height width",
    "Conditioning": "context references=()",
    "Step": "index latent sigma",
}


def shown(function: Callable) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]


def keep_promise(parameters: list[str], wanted: list[str]) -> None:
    """The wanted ones first, with their defaults; a required one may have got a default, a new one must have one."""
    for parameter, want in zip(parameters, wanted, strict=False):
        assert want in (parameter, parameter.split("=")[0])
    assert len(parameters) >= len(wanted)
    assert all("=" in extra for extra in parameters[len(wanted) :])


@pytest.mark.parametrize("name", NAMES)
def test_every_frozen_name_is_exported(name: str):
    assert hasattr(kaleido_core, name)


def test_all_lists_what_is_frozen_and_nothing_else():
    assert set(kaleido_core.__all__) - {"read_metadata"} == set(NAMES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_keep_their_promise(name: str):
    owner, _, method = name.partition(".")
    function = getattr(getattr(kaleido_core, owner), method) if method else getattr(kaleido_core, owner)
    wanted = SIGNATURES[name].split()
    keep_promise(shown(function), wanted)


@pytest.mark.parametrize("name", FIELDS)
def test_data_classes_are_frozen_and_keep_their_fields(name: str):
    owner: Any = getattr(kaleido_core, name)
    assert owner.__dataclass_params__.frozen
    keep_promise([p.replace(" ", "") for p in shown(owner)], FIELDS[name].replace(", ", ",").split())


def test_the_vae_config_starts_as_wan():
    config = kaleido_core.VAEConfig()
    assert (config.base_width, config.latent_channels, len(config.mean), len(config.std)) == (96, 16, 16, 16)


def test_the_14b_has_the_official_sizes():
    config = kaleido_core.KALEIDO_14B
    assert (config.num_layers, config.width, config.num_heads) == (40, 5120, 40)
    assert (config.mlp_width, config.text_width, config.head_width) == (13824, 4096, 128)


def test_generate_takes_a_prompt_and_images_by_name():
    parameters = inspect.signature(kaleido_core.generate).parameters
    assert {"prompt", "model", "steps", "cfg", "shift", "seed"} <= set(parameters)
