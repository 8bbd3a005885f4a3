"""Settings are strict, complete, and those of the files are those of the code."""

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from kaleido_core.errors import ConfigError
from training.curation.config import CurationConfig, read_config


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "a.toml").write_text(text)
    return tmp_path / "a.toml"


def test_an_empty_file_gives_the_defaults(tmp_path: Path):
    assert read_config(written(tmp_path, "")) == CurationConfig()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[quality]\nsharpness = 3", "quality.sharpness is unknown"),
        ("[qualities]\nsharp = 3", "qualities is unknown"),
        ('[quality]\nsharp = "3"', "quality.sharp = '3'"),
        ("[quality]\nsharp = nan", "quality.sharp = nan"),
        ("[pairs.weights]\nmasked = true", "pairs.weights.masked = True"),
        ("quality = 3", "quality = 3"),
        ("[quality", "a.toml"),
    ],
)
def test_what_is_unknown_or_of_another_type_is_an_error_that_names_file_and_key(tmp_path: Path, text: str, named: str):
    with pytest.raises(ConfigError) as caught:
        read_config(written(tmp_path, text))
    assert named in str(caught.value) and "a.toml" in str(caught.value)


def test_a_missing_file_is_an_error_that_says_what_to_name(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"absent\.toml.*curation_local\.toml"):
        read_config(tmp_path / "absent.toml")


def flat(table: object, where: str = "") -> dict[str, object]:
    if not isinstance(table, dict):
        return {where: table}
    return {key: value for name, inner in table.items() for key, value in flat(inner, f"{where}.{name}").items()}


def test_the_local_file_shows_every_setting_at_its_default(root: Path):
    path = root / "training/configs/curation_local.toml"
    assert read_config(path) == CurationConfig()
    assert flat(tomllib.loads(path.read_text())).keys() == flat(asdict(CurationConfig())).keys()


def test_the_clusters_file_is_read_and_names_models_by_folders_of_their_own(root: Path):
    models = read_config(root / "training/configs/curation_cluster.toml").models
    assert all(":" in spec for spec in (models.detector, models.segmenter, models.embedder, models.captioner))
