import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from kaleido_core import DiTConfig, TextConfig, VAEConfig, WanVAE, load_dit
from kaleido_core.checkpoints.load import ASSETS
from kaleido_core.config import LATENT_MEAN, LATENT_STD
from kaleido_core.errors import CheckpointError
from kaleido_core.text.tokenizer import Tokenizer
from training.tiny.anchor import fit_anchor, to_cells
from training.tiny.clips import cell_weights, encode_clips
from training.tiny.data import Artwork
from training.tiny.emoji import EmojiSet
from training.tiny.export import fold_statistics
from training.tiny.muon import BatchedMuon
from training.tiny.photos import PHOTOS, PhotoSet
from training.tiny.ranks import Ranks
from training.tiny.recipe import TINY_VAE, DiTRecipe, learning_rate
from training.tiny.report import candidate_drawings, choose_cases
from training.tiny.train_dit import Material, Trainee, start_from, train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small_clips(monkeypatch):
    monkeypatch.setattr("training.tiny.data.FRAMES", 5)
    monkeypatch.setattr("training.tiny.data.SIDE", 32)


class LetterTokenizer(Tokenizer):
    """One token a letter, eight tokens a text."""

    def __init__(self):
        self.length = 8

    def __call__(self, texts):
        ids = torch.zeros(len(texts), self.length, dtype=torch.int64)
        for row, text in enumerate(texts):
            letters = [ord(letter) % 32 for letter in text[: self.length - 1]] + [1]
            ids[row, : len(letters)] = torch.tensor(letters)
        return ids, (ids > 0).long()


@pytest.fixture(scope="module")
def art():
    generator = torch.Generator().manual_seed(0)
    identities = 24
    sprites = torch.randint(0, 256, (2 * identities, 4, 64, 64), generator=generator, dtype=torch.uint8)
    emoji = EmojiSet(
        sprites=sprites,
        names=tuple(f"thing {index // 2}" for index in range(2 * identities)),
        identity=torch.arange(identities).repeat_interleave(2),
        vendor=torch.arange(2).repeat(identities),
        held_out=torch.arange(2 * identities) >= identities,
    )
    photos = torch.randint(0, 256, (len(PHOTOS), 3, 256, 256), generator=generator, dtype=torch.uint8)
    return Artwork(emoji, PhotoSet(photos, tuple(photo.name for photo in PHOTOS)), CPU)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(1)
    return WanVAE(replace(TINY_VAE, base_width=2)).eval().requires_grad_(False)


@pytest.fixture
def material(art, vae):
    tokenizer = LetterTokenizer()
    return Material(art, vae, tokenizer, tokenizer([""]))


def trainee():
    torch.manual_seed(2)
    return Trainee(DiTConfig(1, 24, 2, 24, 8), TextConfig(32, 8, 8, 8, 2, 1))


RECIPE = DiTRecipe(steps=24, batch=2, chunk_batches=(0, 1, 1, 0), reuse=8, warmup=2)


def test_a_stopped_run_goes_on_bit_for_bit(material, tmp_path):
    ranks = Ranks(0, 1, CPU)
    straight = train(trainee(), RECIPE, material, tmp_path / "straight", ranks)
    for step in (10, 20, 24):  # stops are heard every ten steps: once inside a chunk, once inside the next
        pieces = train(trainee(), RECIPE, material, tmp_path / "pieces", ranks, seconds=0 if step < 24 else math.inf)
        assert pieces.step == step
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, pieces.model.state_dict()[name]), name
        assert torch.equal(straight.ema[name], pieces.ema[name]), name


def test_a_checkpoint_does_not_go_on_under_other_settings(material, tmp_path):
    ranks = Ranks(0, 1, CPU)
    train(trainee(), RECIPE, material, tmp_path, ranks, seconds=0)
    other = DiTRecipe(steps=24, batch=2, chunk_batches=(0, 1, 1, 0), reuse=8, warmup=2, lr=1e-4)
    with pytest.raises(CheckpointError, match="same settings"):
        train(trainee(), other, material, tmp_path, ranks)


def test_a_run_can_begin_with_the_shipped_weights():
    trainee = Trainee()
    start_from(trainee, ASSETS)
    shipped = load_dit("tiny", dtype=torch.float32).state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in trainee.dit.state_dict().items())


def test_each_reference_is_encoded_alone_and_each_seed_has_its_own_clips(art, vae):
    clips = encode_clips(art, vae, LetterTokenizer(), 2, 3, 5, 4.0)
    assert clips.latent.shape == (2, 16, 2, 4, 4)
    assert [reference.shape for reference in clips.references] == [(2, 16, 1, 4, 4)] * 3
    again, other = (encode_clips(art, vae, LetterTokenizer(), 2, 3, seed, 4.0) for seed in (5, 6))
    assert torch.equal(clips.latent, again.latent) and not torch.equal(clips.latent, other.latent)


def test_what_moves_weighs_more_and_a_clip_as_much_as_any_other():
    pixels = torch.zeros(2, 3, 5, 16, 16)
    pixels[1, :, 2:, :8, :8] = 1.0  # one cell of the second clip changes; the first clip stands still
    weight = cell_weights(pixels, 4.0)
    assert weight.shape == (2, 1, 2, 2, 2) and torch.allclose(weight.mean((1, 2, 3, 4)), torch.ones(2))
    assert (weight[0] == 1).all() and (weight[1, 0, :, 0, 0] > 2 * weight[1, 0, :, 1, 1]).all()


def test_folded_statistics_change_the_scale_and_nothing_else(vae):
    pixels = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    latent = vae.encode(pixels)
    mean, std = torch.linspace(-1, 1, 16), 0.3
    folded = WanVAE(VAEConfig(base_width=2))
    folded.load_state_dict(fold_statistics(vae.state_dict(), mean, std))
    assert folded.config.mean == LATENT_MEAN and folded.config.std == LATENT_STD
    normalised = (latent - mean.view(-1, 1, 1, 1)) / std
    torch.testing.assert_close(folded.encode(pixels), normalised, rtol=0, atol=1e-4)
    torch.testing.assert_close(folded.decode(normalised), vae.decode(latent), rtol=0, atol=2e-3)


def test_an_anchor_has_unit_variance_and_reads_the_first_frame_as_four(art):
    anchor = fit_anchor(art, motion_weight=0.0, clips=16, seed=9)
    still = torch.rand(1, 3, 1, 16, 16) * 2 - 1
    torch.testing.assert_close(anchor(still), anchor(still.expand(-1, -1, 5, -1, -1))[:, :, :1])
    assert to_cells(still.expand(-1, -1, 9, -1, -1)).shape == (1, 3, 2, 2, 768)
    gram = anchor.basis.T @ anchor.basis
    torch.testing.assert_close(gram, gram.diagonal().mean() * torch.eye(16), rtol=0, atol=1e-4 * float(gram.max()))


def test_the_rate_rises_stays_and_falls_to_zero():
    rates = [learning_rate(step, 1.0, steps=100, warmup=10, cooldown=0.2) for step in range(101)]
    assert rates[0] == 0.1 and rates[50] == 1.0 and rates[90] == 0.5 and rates[100] == 0.0


def test_a_report_asks_for_the_reference_that_was_shown(art):
    candidates = candidate_drawings(art, 12)
    assert len(art.emoji.identity[candidates].unique()) == 12 and art.emoji.held_out[candidates].all()
    cases = choose_cases(art, candidates, 6, 2)
    assert len(cases.scenes) == 6
    assert torch.equal(candidates[cases.targets], cases.scenes.references.sprite)


RANKS_SCRIPT = """
import torch
from training.tiny.ranks import average_gradients, join, leave
ranks = join()
weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,))]
for weight in weights:
    weight.grad = torch.full_like(weight, float(ranks.index))
average_gradients(weights, ranks)
assert ranks.count == 2 and all((weight.grad == 0.5).all() for weight in weights)
leave(ranks)
"""


def test_two_processes_share_the_mean_of_their_gradients(root, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS_SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    result = subprocess.run(
        command, cwd=root, env={"PYTHONPATH": str(root), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]


def test_matrices_orthogonalised_together_take_the_steps_of_torchs_muon():
    torch.manual_seed(3)
    start = [torch.randn(shape) for shape in ((6, 6), (10, 6), (6, 6), (6, 10))]
    theirs, ours = ([torch.nn.Parameter(matrix.clone()) for matrix in start] for _ in range(2))
    optimizers = (
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        BatchedMuon(ours, lr=0.02, weight_decay=0.1),
    )
    for _ in range(3):
        for one, other in zip(theirs, ours, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other, before in zip(theirs, ours, start, strict=True):
        assert (one - other).norm() < 0.02 * (one - before).norm()  # bfloat16 inside
    assert optimizers[0].state_dict()["state"].keys() == optimizers[1].state_dict()["state"].keys()
