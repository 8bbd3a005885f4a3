"""Train a LoRA, or all weights, on what ``training.cache`` wrote.

``[torchrun --nproc-per-node N -m] training.train configs/x.toml [--set section.key=value]``. It goes on from the newest
checkpoint in ``run.folder``; Ctrl-C saves one and stops. See training/README.md.
"""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from kaleido_core import KaleidoDiT
from kaleido_core.errors import DataError, KaleidoError

from .batches import Ahead, MicroBatch, Source
from .checkpoint import Checkpoints, Progress, resume
from .config import Config
from .config_file import read_config, write_toml
from .distributed import Ranks, check_batch, joined, total
from .export import Origin
from .metrics import Log, Losses, show
from .optim import Average, make_optimizer
from .samples import CachedSamples
from .trainee import Trainee, trainee_at_work
from .update import Outcome, take_step
from .validate import check_clips, held_out_losses, make_clips
from .weights_file import write_weights

logger = logging.getLogger("kaleido.training")

DONE, REFUSED, STOPPED = 0, 2, 130


class Interrupt:
    """The first Ctrl-C or SIGTERM asks the run to stop after its step; the next one ends it at once."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, _frame: object) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)

    @contextmanager
    def listening(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class Pace:
    """Losses and time since the last line of the log."""

    losses: Losses = field(default_factory=Losses)
    since: float = field(default_factory=time.perf_counter)
    steps: int = 0

    def take(self, outcome: Outcome, damaged: int, ranks: Ranks) -> dict[str, float]:
        now = time.perf_counter()
        values = self.losses.take(ranks) | {"lr": outcome.lr, "seconds": (now - self.since) / self.steps}
        self.since, self.steps = now, 0
        if outcome.norm is not None:
            values["norm"] = outcome.norm
        if ranks.device.type == "cuda":
            values["peak_gib"] = torch.cuda.max_memory_allocated(ranks.device) / 2**30
        return values | {"damaged": damaged}


@dataclass(frozen=True)
class Run:
    """A model, its progress, and where all of it is written."""

    config: Config
    ranks: Ranks
    trainee: Trainee
    progress: Progress
    checkpoints: Checkpoints
    log: Log

    def go(self, source: Source, held_out: Source | None, interrupt: Interrupt) -> bool:
        """Learn until the last step (True), or until asked to stop."""
        config, progress, ranks = self.config, self.progress, self.ranks
        if total(torch.tensor([float(self._validation_due() and self.log.lacks_validation)]), ranks).item():
            self._validate(held_out)  # the run was stopped before it could
        part, pace = slice(ranks.data_index, None, ranks.data_count), Pace()
        with closing(Ahead(source, config.run.seed, part, progress.step + 1, config.run.steps)) as ahead:
            while progress.step < config.run.steps:
                outcome = self._step(ahead.take(progress.step + 1), source, pace.losses)
                pace.steps += 1
                self.checkpoints.poll()
                last = progress.step == config.run.steps
                stop = not last and total(torch.tensor([float(interrupt.asked)]), ranks).item() > 0
                if last or stop or progress.step % config.run.log_every == 0:
                    values = pace.take(outcome, progress.damaged, ranks)
                    self.log.write(progress.step, values)
                    if ranks.first:
                        show(progress.step, config.run.steps, values)
                if last or stop or progress.step % config.checkpoint.every == 0:
                    self._save(source.fingerprint)
                if stop:
                    return False
                if self._validation_due():
                    self._validate(held_out)
                    pace.since = time.perf_counter()
        return True

    def _step(self, micro_batches: Sequence[MicroBatch], source: Source, seen: Losses) -> Outcome:
        try:
            return take_step(self.trainee, self.progress, micro_batches, self.config, self.ranks, seen)
        except DataError:  # too much is damaged: on every rank alike
            self._save(source.fingerprint)
            raise

    def _validation_due(self) -> bool:
        every, step = self.config.validation.every, self.progress.step
        return every > 0 and step > 0 and (step == self.config.run.steps or step % every == 0)

    def _save(self, fingerprint: str) -> None:
        origin = Origin(Path(self.config.model.weights).name, self.progress.step, fingerprint)

        def write(folder: Path) -> None:
            if self.config.checkpoint.weights:
                with self.progress.average.in_place():
                    write_weights(folder, self.trainee, self.config, self.ranks, origin)

        self.checkpoints.save(self.progress, write_toml(self.config), fingerprint, write)

    def _validate(self, held_out: Source | None) -> None:
        values, step = {}, self.progress.step
        with self.progress.average.in_place():
            if held_out:
                values |= held_out_losses(self.trainee, held_out, self.config, self.ranks)
            if self.config.validation.clips:
                folder = Path(self.config.run.folder, "clips", f"step-{step:06}")
                values |= make_clips(self.trainee, self.config, folder, self.ranks)
        self.log.write(step, values)
        if self.ranks.first and values:
            logger.info("step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in values.items()))


def train(config: Config, source: Source, held_out: Source | None = None, dit: KaleidoDiT | None = None) -> bool:
    """Run to the last step, from the newest checkpoint; False when asked to stop before. ``dit``: for its weights."""
    check_clips(config)
    interrupt, folder = Interrupt(), Path(config.run.folder)
    with joined(config.parallel) as ranks, interrupt.listening():
        check_batch(config.run, ranks)
        with trainee_at_work(config, ranks, dit) as trainee, closing(Log(folder, ranks, config.run.tensorboard)) as log:
            checkpoints = Checkpoints(folder, config.checkpoint.keep, ranks)
            average = Average(trainee.parameters, config.optimizer.ema)
            optimizer = make_optimizer(trainee.parameters, config.optimizer)
            progress = Progress(optimizer, average, trainee.parameters)
            latest = checkpoints.latest()
            if latest:
                resume(progress, latest, config, source.fingerprint)
            log.rewind(progress.step)
            with closing(checkpoints):
                return Run(config, ranks, trainee, progress, checkpoints, log).go(source, held_out, interrupt)


def open_samples(config: Config) -> tuple[CachedSamples, CachedSamples | None]:
    """What is learned from, and what is held out."""
    data, run = config.data, config.run
    source = CachedSamples(data.cache, data, run.batch, run.micro_batch, run.seed)
    if not data.held_out:
        return source, None
    plain = replace(data, caption_dropout=0.0, reference_dropout=0.0, shuffle_references=False, sample_references=False)
    return source, CachedSamples(data.held_out, plain, 1, 1, run.seed)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 refused, 130 stopped on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a TOML file such as those in training/configs")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change it; repeatable")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = read_config(arguments.config, arguments.set)
        finished = train(config, *open_samples(config))
    except KaleidoError as error:
        print(f"kaleido: {error}", file=sys.stderr)
        return REFUSED
    return DONE if finished else STOPPED


if __name__ == "__main__":
    sys.exit(main())
