import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kaleido_core.errors import ConfigError, DataError
from training.data.dataset import CachedDataset, Choice, Rules, collate
from training.step import flow_matching_loss

ROWS, WIDTH = 6, 8
VARIED = Rules(0.3, 0.2, shuffle_references=True, sample_references=True)


def write(folder: Path, name: str, frames=2, references=(2, 1), rows=3, side=4, **changes) -> None:
    """``references``: how many alternatives each subject has."""
    metadata = {
        "format": "kaleido-cache-1",
        "context_rows": str(ROWS),
        "reference_weights": json.dumps([[1.0] * count for count in references]),
    }
    tensors = {"latent": torch.randn(16, frames, 4, side), "context": torch.randn(rows, WIDTH)}
    for subject, count in enumerate(references):
        tensors |= {f"reference.{subject}.{variant}": torch.randn(16, 1, 4, side) for variant in range(count)}
    save_file(tensors, folder / f"{name}.safetensors", metadata | changes)


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(7):
        write(tmp_path, f"short{number}", references=(3, 1, 2), rows=number % 4 + 1)
    for number in range(4):
        write(tmp_path, f"long{number}", frames=3, references=(1,))
    write(tmp_path, "plain", references=())
    save_file({"context": torch.ones(1, WIDTH)}, tmp_path / "empty.safetensors")
    return tmp_path


@pytest.fixture
def dataset(folder) -> CachedDataset:
    return CachedDataset(folder)


def test_headers_say_what_a_file_holds(dataset):
    by_id = {entry.id: entry for entry in dataset.entries}
    assert len(dataset) == 12 and "empty" not in by_id
    entry = by_id["short2"]
    assert (entry.latent, entry.rows, entry.padded_rows) == ((16, 2, 4, 4), 3, ROWS)
    assert [len(reference.weights) for reference in entry.references] == [3, 1, 2]
    assert {reference.shape for reference in entry.references} == {(16, 1, 4, 4)}


def test_every_sample_comes_once_an_epoch_and_one_bucket_at_a_time(dataset):
    for micro_batch in (1, 2, 4):
        steps = sum(-(-count // micro_batch) for count in (7, 4, 1))
        for epoch in range(2):
            plans = [
                dataset.batch_plan(epoch * steps + step, 5, micro_batch, micro_batch) for step in range(1, steps + 1)
            ]
            groups = [[dataset.entries[item.index] for item in micro] for plan in plans for micro in plan[0]]
            assert all(len({entry.bucket for entry in group}) == 1 for group in groups)
            seen = Counter(entry.id for group in groups for entry in group)
            assert len(seen) == 12 and (micro_batch > 1 or set(seen.values()) == {1})


def test_epochs_and_seeds_have_orders_of_their_own(dataset):
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(dataset.batch_plan(12 * epoch + step, seed, 1)[0][0][0].index for step in range(1, 13))

    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


def test_a_plan_does_not_depend_on_what_was_asked_before(folder, dataset):
    forwards = [dataset.batch_plan(step, 3, 4, 2, 2, VARIED) for step in range(1, 30)]
    fresh = [CachedDataset(folder).batch_plan(step, 3, 4, 2, 2, VARIED) for step in reversed(range(1, 30))]
    assert forwards == fresh[::-1]


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_step_is_the_same_for_any_number_of_ranks(dataset, ranks):
    for step in range(1, 20):
        (alone,) = dataset.batch_plan(step, 3, 8, 2, 1, VARIED)
        shared = dataset.batch_plan(step, 3, 8, 2, ranks, VARIED)
        assert len(shared) == ranks and {len(part) for part in shared} == {4 // ranks}
        assert sum(shared, ()) == alone


def test_a_batch_that_does_not_divide_is_refused(dataset):
    for batch, micro_batch, ranks in ((3, 2, 1), (4, 2, 4), (2, 4, 1), (0, 1, 1)):
        with pytest.raises(ConfigError, match="Change the batch"):
            dataset.batch_plan(1, 0, batch, micro_batch, ranks)


def test_every_plan_stacks_into_a_batch_the_loss_can_take(dataset):
    def model(latent, sigma, context, references):
        return latent + sum(reference.mean() for reference in references) + context.mean()

    for step in range(1, 40):
        for micro in dataset.batch_plan(step, 1, 3, 3, 1, VARIED)[0]:
            batch = collate([dataset.load(dataset.entries[item.index], item.choice) for item in micro])
            assert batch.context.shape == (3, ROWS, WIDTH)
            loss = flow_matching_loss(model, batch, torch.randn_like(batch.latent), torch.full((3,), 0.5))
            assert loss.isfinite()


def items(dataset: CachedDataset, rules: Rules, name: str, steps: int = 2400):
    plans = (dataset.batch_plan(step, 7, 1, rules=rules)[0][0][0] for step in range(1, steps + 1))
    return [item.choice for item in plans if dataset.entries[item.index].id.startswith(name)]


def test_captions_and_references_are_dropped_at_the_rates_asked_for(dataset):
    choices = items(dataset, Rules(0.3, 0.2), "short")
    assert sum(choice.drop_caption for choice in choices) / len(choices) == pytest.approx(0.3, abs=0.04)
    assert sum(not choice.references for choice in choices) / len(choices) == pytest.approx(0.2, abs=0.04)
    assert not any(choice.drop_caption or not choice.references for choice in items(dataset, Rules(0), "short"))


def test_references_keep_their_order_unless_told_to_shuffle(dataset):
    assert {tuple(s for s, _ in choice.references) for choice in items(dataset, Rules(), "short")} == {(0, 1, 2)}
    shuffled = items(dataset, Rules(shuffle_references=True), "short")
    assert len({tuple(s for s, _ in choice.references) for choice in shuffled}) == 6


def test_the_number_of_references_is_sampled_within_its_limit(dataset):
    counts = Counter(len(choice.references) for choice in items(dataset, Rules(sample_references=True), "short"))
    assert set(counts) == {1, 2, 3} and min(counts.values()) > 0.8 * max(counts.values())
    assert {len(choice.references) for choice in items(dataset, Rules(max_references=2), "short")} == {2}
    assert {len(choice.references) for choice in items(dataset, Rules(max_references=0), "short")} == {0}


def test_alternatives_are_drawn_by_their_weights(folder):
    write(folder, "weighted", references=(3,), frames=5, reference_weights="[[1, 4, 5]]")
    dataset = CachedDataset(folder)
    drawn = Counter(choice.references[0][1] for choice in items(dataset, Rules(), "weighted", 9000))
    total = sum(drawn.values())
    assert [drawn[variant] / total for variant in range(3)] == pytest.approx([0.1, 0.4, 0.5], abs=0.06)


def test_a_sample_is_what_the_file_holds_with_zeros_behind_the_text(folder, dataset):
    entry = next(entry for entry in dataset.entries if entry.id == "short1")
    sample = dataset.load(entry, Choice(references=((2, 1), (0, 0))))
    held = load_file(folder / "short1.safetensors")
    assert torch.equal(sample.latent, held["latent"])
    assert torch.equal(sample.context[:2], held["context"]) and not sample.context[2:].any()
    assert torch.equal(sample.references[0], held["reference.2.1"])
    assert torch.equal(sample.references[1], held["reference.0.0"])


def test_a_dropped_caption_is_the_cached_text_of_no_words(dataset):
    sample = dataset.load(dataset.entries[0], Choice(drop_caption=True))
    assert torch.equal(sample.context[:1], torch.ones(1, WIDTH)) and not sample.context[1:].any()


def test_a_file_that_breaks_later_is_named_when_it_is_loaded(folder, dataset):
    entry = next(entry for entry in dataset.entries if entry.id == "plain")
    whole = (folder / "plain.safetensors").read_bytes()
    for content in (whole[: len(whole) // 2], b"", None):
        (folder / "plain.safetensors").unlink()
        if content is not None:
            (folder / "plain.safetensors").write_bytes(content)
        with pytest.raises(DataError, match=r"plain\.safetensors cannot be read"):
            dataset.load(entry)
        (folder / "plain.safetensors").touch()


@pytest.mark.parametrize("where", ["latent", "context", "reference.0.0"])
def test_numbers_that_are_not_finite_are_refused(folder, dataset, where):
    path = folder / "long0.safetensors"
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors[where].view(-1)[-1] = float("nan")
    save_file(tensors, path, metadata)
    entry = next(entry for entry in dataset.entries if entry.id == "long0")
    with pytest.raises(DataError, match=rf"long0\.safetensors: {where} holds"):
        dataset.load(entry, Choice(references=((0, 0),)))


def test_a_file_with_a_broken_header_is_named_and_left_out(folder):
    (folder / "half.safetensors").write_bytes((folder / "plain.safetensors").read_bytes()[:50])
    save_file({"latent": torch.zeros(1)}, folder / "foreign.safetensors")
    dataset = CachedDataset(folder)
    assert len(dataset) == 12 and len(dataset.damaged) == 2
    assert "foreign.safetensors" in dataset.damaged[0] and "half.safetensors" in dataset.damaged[1]


def test_a_folder_without_samples_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match=r"training\.cache"):
        CachedDataset(tmp_path)


def test_the_fingerprint_changes_with_what_there_is_to_learn(folder, dataset):
    before = dataset.fingerprint
    assert CachedDataset(folder).fingerprint == before
    write(folder, "more")
    assert CachedDataset(folder).fingerprint != before


def test_rules_out_of_range_are_refused():
    for changes in ({"caption_dropout": 1.5}, {"reference_dropout": -0.1}, {"max_references": 4}):
        with pytest.raises(ConfigError):
            replace(Rules(), **changes)
