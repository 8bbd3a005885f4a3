"""Which references a sample shows, and when cached files come."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from training.batches import MicroBatch, load_step
from training.config import DataConfig
from training.samples import CachedSamples


def write_numbered(folder: Path, references: Sequence[int]) -> DataConfig:
    """A clip for each number of references; each reference is full of its own place, from 1."""
    for index, count in enumerate(references):
        clip = {"latent": torch.ones(16, 1, 2, 2), "context": torch.ones(2, 4)}
        pictures = {f"reference.{place}.0": torch.full((16, 1, 2, 2), place + 1.0) for place in range(count)}
        save_file(clip | pictures, folder / f"{index}.safetensors")
    save_file({"context": torch.zeros(1, 4)}, folder / "empty.safetensors")
    return DataConfig(str(folder), caption_dropout=0.0)


def micro_batches(config: DataConfig, steps: int = 40, batch: int = 1) -> list[MicroBatch]:
    source = CachedSamples(config.cache, config, batch, batch, seed=3)
    return [micro for step in range(1, steps + 1) for micro in load_step(source, step, 3, slice(None))]


def places(micro: MicroBatch, sample: int = 0) -> list[int]:
    return [int(reference[sample].mean()) for reference in micro.batch.references]


def test_all_references_come_in_their_order_unless_asked_otherwise(tmp_path):
    config = write_numbered(tmp_path, [3])
    assert all(places(micro) == [1, 2, 3] for micro in micro_batches(config))


def test_sampled_references_are_any_number_from_one_up_to_all_equally_often(tmp_path):
    config = replace(write_numbered(tmp_path, [3]), sample_references=True)
    counts = [len(places(micro)) for micro in micro_batches(config, 300)]
    assert set(counts) == {1, 2, 3}
    assert all(counts.count(count) == pytest.approx(100, abs=25) for count in (1, 2, 3))


def test_a_micro_batch_has_one_number_of_references_and_its_samples_their_own_pictures(tmp_path):
    config = replace(write_numbered(tmp_path, [3, 3]), sample_references=True, shuffle_references=True)
    micros = micro_batches(config, 60, batch=2)
    assert not any(micro.problems for micro in micros)
    assert {len(micro.batch.references) for micro in micros} == {1, 2, 3}
    assert any(places(micro, 0) != places(micro, 1) for micro in micros)


@pytest.mark.parametrize("sampled", [False, True])
def test_there_are_never_more_references_than_the_limit(tmp_path, sampled: bool):
    config = replace(write_numbered(tmp_path, [3, 1, 0]), sample_references=sampled, max_references=2)
    found = {(micro.names[0], len(places(micro))) for micro in micro_batches(config, 90)}
    assert found == {("0", 2), ("1", 1), ("2", 0)} | ({("0", 1)} if sampled else set())
    none = replace(config, max_references=0)
    assert not any(places(micro) for micro in micro_batches(none, 9))


def test_shuffling_changes_the_order_of_references_but_not_the_set(tmp_path):
    config = replace(write_numbered(tmp_path, [3]), shuffle_references=True)
    orders = [tuple(places(micro)) for micro in micro_batches(config, 90)]
    assert all(sorted(order) == [1, 2, 3] for order in orders) and len(set(orders)) == 6
    limited = replace(config, max_references=1)
    assert {places(micro)[0] for micro in micro_batches(limited, 60)} == {1, 2, 3}, "any of them may be the one"


def test_a_file_that_is_gone_later_does_not_change_what_the_run_is_known_by(tmp_path):
    config = write_numbered(tmp_path, [1, 1])
    source = CachedSamples(tmp_path, config, 1, 1, seed=3)
    before = source.fingerprint
    (tmp_path / "1.safetensors").unlink()
    assert source.fingerprint == before != CachedSamples(tmp_path, config, 1, 1, seed=3).fingerprint


def test_variants_are_drawn_by_their_weights(tmp_path):
    tensors = {f"reference.0.{variant}": torch.full((16, 1, 2, 2), float(variant)) for variant in range(2)}
    clip = {"latent": torch.ones(16, 1, 2, 2), "context": torch.ones(2, 4)}
    save_file(clip | tensors, tmp_path / "a.safetensors", {"weights": "[[9.0, 1.0]]", "context_rows": "5"})
    save_file({"context": torch.ones(1, 4)}, tmp_path / "empty.safetensors")
    samples = CachedSamples(tmp_path, DataConfig(str(tmp_path), caption_dropout=0.0), 1, 1, 0)
    drawn = [samples.load(0, np.random.default_rng(seed), np.random.default_rng(0)) for seed in range(300)]
    share = np.mean([float(sample.references[0].mean()) for sample in drawn])
    assert 0.05 < share < 0.17
    assert drawn[0].context.shape == (5, 4) and not drawn[0].context[2:].any()


def test_more_than_ten_variants_keep_their_weights(tmp_path):
    tensors = {f"reference.0.{variant}": torch.full((16, 1, 2, 2), float(variant)) for variant in range(12)}
    clip = {"latent": torch.ones(16, 1, 2, 2), "context": torch.ones(2, 4)}
    weights = [[1e9 if variant == 2 else 1.0 for variant in range(12)]]
    save_file(clip | tensors, tmp_path / "a.safetensors", {"weights": json.dumps(weights)})
    save_file({"context": torch.ones(1, 4)}, tmp_path / "empty.safetensors")
    samples = CachedSamples(tmp_path, DataConfig(str(tmp_path), caption_dropout=0.0), 1, 1, 0)
    drawn = [samples.load(0, np.random.default_rng(seed), np.random.default_rng(0)) for seed in range(20)]
    assert {float(sample.references[0].mean()) for sample in drawn} == {2.0}
