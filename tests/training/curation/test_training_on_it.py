"""The loop is closed: the manifest that curation writes is encoded by the cache and trained on."""

from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
pytest.importorskip("scenedetect", reason="scenedetect-headless is not installed")

from training import cache, train
from training.curation import pipeline

from . import killed_pipeline
from .films import write
from .test_pipeline import FPS, film
from .world import Sprite


def test_a_manifest_is_encoded_and_trained_on(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw/a.mp4", [*film(1, 3.0, Sprite((210, 40, 40))), *film(2, 3.0, Sprite((40, 60, 220)))], FPS)
    monkeypatch.setattr(pipeline, "make_stages", killed_pipeline.stages)
    records = pipeline.curate(tmp_path / "raw", tmp_path / "out", killed_pipeline.SMALL)
    assert records
    manifest, encoded = tmp_path / "out/manifest.jsonl", tmp_path / "cache"
    assert cache.main([str(manifest), str(encoded), "--sizes", "64x64x9"]) == 0
    settings = {"data.cache": encoded, "run.folder": tmp_path / "run", "run.steps": 2, "checkpoint.every": 2}
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    assert train.main([str(root / "training/configs/tiny_cpu.toml"), *words]) == 0
    assert list((tmp_path / "run").rglob("*.safetensors"))
