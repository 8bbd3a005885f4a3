"""Models by name, and what workers that load large ones ask of the engine."""

from dataclasses import replace
from pathlib import Path

import pytest

from kaleido_core.errors import ConfigError
from training.curation import ray_engine
from training.curation.config import CurationConfig
from training.curation.models import make
from training.curation.pipeline import make_stages

KINDS = ("detector", "segmenter", "embedder", "faces", "text", "image_text", "inpainter")


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_name_is_told_with_the_known_ones(kind: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=rf"models\.{kind} = 'yolo' is unknown; known are \w+"):
        getattr(make, kind)("yolo", tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("detector", "nanodet"), ("segmenter", "u2netp"), ("embedder", "efficientnet"), ("image_text", "conse")],
)
def test_a_local_model_that_is_not_fetched_is_told_with_the_command(kind: str, name: str, tmp_path: Path):
    if name == "u2netp":
        pytest.importorskip("onnxruntime")
    with pytest.raises(ConfigError, match=r"python -m training\.curation fetch-models"):
        getattr(make, kind)(name, tmp_path)


def test_stages_with_large_models_ask_for_their_share_of_a_card():
    config = CurationConfig()
    shares = _shares(replace(config, models=replace(config.models, gpus=0.25)))
    assert {name for name, share in shares.items() if share == 0.25} == {"captions", "subjects", "plates"}
    assert not any(_shares(config).values())


def _shares(config: CurationConfig) -> dict[str, float]:
    return {stage.name: ray_engine._resources(stage).gpus for stage in make_stages(config)}


def test_ray_is_not_asked_for_more_cards_than_there_are():
    class Machine:
        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return {"CPU": 2.0}

    ray_engine.check_cards(Machine, 0.0)
    with pytest.raises(ConfigError, match=r"take 1\.5 GPUs at once and this machine has 0"):
        ray_engine.check_cards(Machine, 1.5)
