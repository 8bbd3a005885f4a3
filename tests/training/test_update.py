"""What a step learns from, what it leaves out, and when it gives up."""

import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from kaleido_core.errors import DataError
from training.batches import Ahead, draw_noise, load_step, seed_of
from training.config import ModelConfig, NoiseConfig, RunConfig
from training.samples import CachedSamples
from training.step import sample_sigma, shift_sigma
from training.train import train

from .small_run import samples, small_config, small_dit, write_cache


@pytest.fixture
def folder(tmp_path):
    write_cache(tmp_path / "cache", 6)
    return tmp_path


def weights(folder, step):
    (state,) = (folder / "run" / f"step-{step:06}" / "state").iterdir()
    return load_file(state)


def config_of(folder, steps=2, batch=2, **sections):
    run = RunConfig(str(folder / "run"), steps, batch, seed=7, log_every=1)
    return small_config(folder, run=run, model=ModelConfig("small", "full", "fp32"), **sections)


def spoil(folder, name, how):
    path = folder / "cache" / f"{name}.safetensors"
    if how == "short":
        path.write_bytes(path.read_bytes()[:-100])
        return
    tensors = load_file(path)
    tensors["latent"][0, 0, 0, 0] = float("nan")
    save_file(tensors, path)


def drawn(config, step):
    """The names of a step's samples."""
    return [name for micro in load_step(samples(config), step, 7, slice(None)) for name in micro.names]


@pytest.mark.parametrize("how", ["nan", "short"])
def test_a_damaged_sample_is_left_out_named_and_counted(folder, caplog, how):
    config = config_of(folder, steps=1)
    damaged, good = drawn(config, 1)
    spoil(folder, damaged, how)
    caplog.set_level(logging.WARNING, "kaleido.training")
    assert train(config, samples(config), None, small_dit())
    assert f"left out {damaged}: " in caplog.text and "1 of 2 so far" in caplog.text
    found = weights(folder, 1)
    assert found["damaged"] == 1 and found["step"] == 1
    assert all(value.isfinite().all() for value in found.values())
    before = small_dit().get_parameter("head.head.weight")
    assert not torch.equal(found["model.head.head.weight"], before), f"{good} was learned from"


def test_a_step_whose_loss_is_not_finite_changes_no_weight_and_no_average(folder, caplog):
    config = config_of(folder, steps=1)
    dit = small_dit()
    names = drawn(config, 1)
    with torch.no_grad():
        dit.get_parameter("blocks.0.modulation").fill_(float("inf"))
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    caplog.set_level(logging.WARNING, "kaleido.training")
    with pytest.raises(DataError, match="We stop above 1 %"):
        train(config, samples(config), None, dit)
    assert all(f"{name}: its loss is not finite" in caplog.text for name in names)
    assert all(torch.equal(value, before[name]) for name, value in dit.state_dict().items())


def test_a_finite_loss_whose_gradient_is_not_changes_nothing_and_is_counted(folder, caplog):
    config = config_of(folder, steps=1)
    dit = small_dit()
    dit.get_parameter("head.head.weight").register_hook(lambda gradient: gradient * float("inf"))
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    caplog.set_level(logging.WARNING, "kaleido.training")
    assert train(config, samples(config), None, dit)
    assert "left out a gradient is not finite (1 of 2 so far)" in caplog.text
    found = weights(folder, 1)
    assert found["damaged"] == 1 and not any(key.startswith("optimizer.") for key in found)
    for name, value in before.items():
        assert torch.equal(found[f"model.{name}"], value) and torch.equal(found[f"average.{name}"], value)


def test_a_run_stops_past_one_damaged_sample_in_a_hundred_and_goes_on_when_it_is_mended(folder):
    config = config_of(folder, steps=8)
    damaged = drawn(config, 1)[0]
    spoil(folder, damaged, "nan")
    with pytest.raises(DataError, match=rf"2 of 8 samples .* {damaged}: its latent holds numbers that are not finite"):
        train(config, samples(config), None, small_dit())
    assert weights(folder, 4)["damaged"] == 2, "what was learned before is kept"
    write_cache(folder / "cache", 6)
    assert train(config, samples(config), None, small_dit())
    assert weights(folder, 8)["damaged"] == 2


@pytest.mark.parametrize("how", ["nan", "short"])
def test_a_damaged_sample_that_fills_its_micro_batch_counts_once(folder, how):
    """The only one of its shape, or of none: a micro batch is that sample again and again."""
    for number in (2, 4):
        (folder / "cache" / f"clip-{number}.safetensors").unlink()
    spoil(folder, "clip-0", how)
    config = config_of(folder, batch=4)
    config = replace(
        config, run=replace(config.run, steps=3, micro_batch=4), data=replace(config.data, max_references=0)
    )
    assert sum(set(drawn(config, step)) == {"clip-0"} for step in (1, 2, 3, 4)) == 1
    steps = next(step for step in (1, 2, 3, 4) if "clip-0" in drawn(config, step))
    config = replace(config, run=replace(config.run, steps=steps))
    assert train(config, samples(config), None, small_dit())
    assert weights(folder, steps)["damaged"] == 1


def test_micro_batches_make_the_step_of_one_batch(folder, monkeypatch):
    """Samples of one shape, so that they can be computed together."""
    for path in (folder / "cache").glob("clip-[1235].safetensors"):
        path.unlink()
    found = []
    for micro in (1, 2):
        config = config_of(folder / str(micro))
        config = replace(config, run=replace(config.run, micro_batch=micro), data=config_of(folder).data)
        source = samples(config)
        plan = [[0], [1]] if micro == 1 else [[0, 1]]
        monkeypatch.setattr(source, "plan", lambda step, plan=plan: plan)
        assert train(config, source, None, small_dit())
        found.append(weights(folder / str(micro), 2))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=2e-4, atol=2e-6)


def test_every_sample_comes_once_an_epoch_in_an_order_of_its_seed(folder):
    config = small_config(folder)
    source = samples(config)
    order = [index for step in range(1, 7) for micro in source.plan(step) for index in micro]
    epochs = [order[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    assert [source.plan(step) for step in (3, 1)] == [samples(config).plan(step) for step in (3, 1)]
    other = CachedSamples(config.data.cache, config.data, 4, 1, seed=8)
    assert [other.plan(step) for step in (1, 2)] != [source.plan(step) for step in (1, 2)]


def test_micro_batches_hold_samples_of_one_shape_and_every_sample_comes(folder):
    source = CachedSamples(folder / "cache", small_config(folder).data, 8, 2, seed=7)
    plan = source.plan(1) + source.plan(2)
    assert {index for micro in plan for index in micro} == set(range(6))
    for micro in load_step(source, 1, 7, slice(None)):
        assert len(micro.names) == 2 and not micro.problems


def test_ranks_share_the_samples_of_a_step(folder):
    config = small_config(folder)
    whole = load_step(samples(config), 3, 7, slice(None))
    parts = [load_step(samples(config), 3, 7, slice(rank, None, 2)) for rank in range(2)]
    shared = [micro for pair in zip(*parts, strict=True) for micro in pair]
    assert [micro.names for micro in shared] == [micro.names for micro in whole]
    assert [micro.places for micro in shared] == [(0,), (1,), (2,), (3,)]
    for one, other in zip(shared, whole, strict=True):
        assert torch.equal(one.batch.context, other.batch.context)
        assert len(one.batch.references) == len(other.batch.references)


def test_noise_is_a_samples_own_and_its_levels_are_the_official_ones(tmp_path):
    latent = torch.zeros(2, 16, 3, 6, 8)
    draw = draw_noise(NoiseConfig(), latent, [11, 12])
    for place, seed in enumerate((11, 12)):
        alone = draw_noise(NoiseConfig(), latent[:1], [seed])
        assert torch.equal(draw.noise[place], alone.noise[0]) and draw.sigma[place] == alone.sigma[0]
        raw = sample_sigma(1, torch.Generator().manual_seed(seed))
        assert draw.sigma[place] == shift_sigma(raw, (6, 8))[0]
    seeds = [seed_of(1, step, place) for step in range(20) for place in range(20)]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    ("noise", "least", "most"),
    [
        (NoiseConfig("uniform", shift="fixed", fixed_shift=1.0), 0.45, 0.55),
        (NoiseConfig(mean=2.0, shift="fixed", fixed_shift=1.0), 0.8, 0.9),
        (NoiseConfig(shift="fixed", fixed_shift=7.0), 0.75, 0.9),
    ],
)
def test_levels_of_noise_follow_the_config(noise, least, most):
    sigma = draw_noise(noise, torch.zeros(400, 1, 1, 2, 2), range(400)).sigma
    assert least < sigma.mean() < most and sigma.min() >= 0 and sigma.max() <= 1


def test_dropouts_are_drawn_at_their_rates(folder):
    data = replace(small_config(folder).data, caption_dropout=0.3, reference_dropout=0.25)
    source = CachedSamples(folder / "cache", data, 100, 1, seed=7)
    micros = [micro for step in range(1, 7) for micro in load_step(source, step, 7, slice(None))]
    empty = load_file(folder / "cache" / "empty.safetensors")["context"]
    dropped = [torch.equal(micro.batch.context[0], empty) for micro in micros]
    assert sum(dropped) / len(micros) == pytest.approx(0.3, abs=0.06)
    with_references = [len(micro.batch.references) for micro in micros if int(micro.names[0][-1]) % 4]
    assert with_references.count(0) / len(with_references) == pytest.approx(0.25, abs=0.06)


def test_the_next_step_is_loaded_ahead_and_the_same(folder):
    source = samples(small_config(folder))
    ahead = Ahead(source, 7, slice(None), 2, 3)
    for step in (2, 3):
        taken, loaded = ahead.take(step), load_step(source, step, 7, slice(None))
        for a, b in zip(taken, loaded, strict=True):
            assert a.names == b.names and torch.equal(a.batch.latent, b.batch.latent)
    ahead.close()
