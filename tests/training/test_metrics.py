"""What a run tells, and that a resume tells nothing twice."""

from pathlib import Path

import pytest

from training.config import CheckpointConfig, RunConfig

from .small_run import run, small_config, write_cache


def test_tensorboard_shows_every_step_once_after_a_run_was_killed(tmp_path: Path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore[reportMissingImports]
        EventAccumulator,
    )

    from training.train import Run

    write_cache(tmp_path / "cache")
    shown = RunConfig(str(tmp_path / "run"), 6, batch=2, log_every=1, tensorboard=True)
    config = small_config(tmp_path, run=shown, checkpoint=CheckpointConfig(every=2))
    step = Run._step

    def killed(self: Run, *inputs: object):
        if self.progress.step == 5:
            raise KeyboardInterrupt
        return step(self, *inputs)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "_step", killed)
        run(config)
    assert run(config), "from step 4: the fifth comes again"
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
