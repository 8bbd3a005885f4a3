"""A config file says what a run does, or what is wrong with it."""

from pathlib import Path

import pytest

from kaleido_core.errors import ConfigError
from training.config import ClipConfig, Config
from training.config_file import differences, read_config, write_toml
from training.typed import build

LEAST = '[run]\nfolder = "runs/a"\nsteps = 10\n[data]\ncache = "cache"\n[model]\nweights = "tiny"\n'


@pytest.fixture
def file(tmp_path: Path):
    path = tmp_path / "config.toml"

    def write(text: str) -> Path:
        path.write_text(LEAST + text, encoding="utf-8")
        return path

    return write


def test_what_is_not_said_is_the_default(file):
    config = read_config(file("[lora]\nrank = 8\nalpha = 4\n"))
    assert (config.run.steps, config.lora.rank, config.lora.alpha, config.optimizer.name) == (10, 8, 4.0, "adamw")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optimiser]\nlr = 1\n", "optimiser is unknown; known here are run, model"),
        ("[optimizer]\nlearning_rate = 1.0\n", r"optimizer\.learning_rate is unknown; known here are name, lr"),
        ('[optimizer]\nlr = "1e-4"\n', r"optimizer\.lr = '1e-4': it must be float, not str"),
        ("[optimizer]\nlr = nan\n", r"optimizer\.lr = nan: a plain number"),
        ("[optimizer]\nclip_norm = true\n", r"optimizer\.clip_norm = True: it must be float, not bool"),
        ("[checkpoint]\nevery = 1.5\n", r"checkpoint\.every = 1\.5: it must be int, not float"),
        ("[optimizer]\nbetas = [0.9]\n", r"optimizer\.betas = \[0\.9\]: 2 values are needed, not 1"),
        ("[optimizer]\nbetas = [0.9, 1]\n", r"\[optimizer\] betas \(0\.9, 1\.0\): two numbers from 0, below 1"),
        ('[schedule]\nkind = "step"\n', r"schedule\.kind = 'step': it is one of 'constant', 'cosine', 'linear'"),
        ("[checkpoint]\nkeep = 0\n", r"\[checkpoint\] every 500, keep 0: both are 1 or more"),
        ('[lora]\ntargets = ["q"]\n', r"\[lora\] LoRA targets \['q'\]; known are attention"),
        ('[[validation.clips]]\nprompt = "a"\nimage = "b"\n', r"validation\.clips\[0\]\.image is unknown"),
        ("[[validation.clips]]\nseed = 3\n", r"validation\.clips\[0\]\.prompt is missing"),
        ("[memory]\nresident_blocks = 2\ncheckpointing = 'none'\n", "visiting blocks without checkpointing"),
        ("[parallel]\nstrategy = 'fsdp'\n[memory]\nresident_blocks = 2\n", "fsdp with resident_blocks"),
        ("method = 'full'\n[parallel]\nstrategy = 'fsdp'\n[optimizer]\nname = 'adafactor'\n", "fsdp with adafactor"),
        ("[optimizer]\nname = 'adafactor'\neps = 1e-6\n", r"betas \(0\.9, 0\.95\), eps 1e-06 with adafactor"),
        ("[parallel]\nshard_ranks = 2\n", "shard_ranks 2 with ddp"),
        ("[[validation.clips]]\nprompt = 'a'\n", "validation.clips with validation.every 0"),
        ("[noise", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(file, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(file(text))


def test_what_must_be_said_is_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="model is missing"):
        build(Config, {"run": {"folder": "a", "steps": 1}, "data": {"cache": "b"}})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.toml")


def test_settings_can_be_changed_on_the_command_line(file):
    changes = ["run.steps=20", "data.cache=other cache", 'lora.targets=["q", "all"]', "optimizer.betas=[0.8, 0.9]"]
    with pytest.raises(ConfigError, match=r"LoRA targets \['q'\]"):
        read_config(file(""), changes)
    config = read_config(file(""), [*changes, 'lora.targets=["self_attn.q"]'])
    assert (config.run.steps, config.data.cache, config.lora.targets) == (20, "other cache", ("self_attn.q",))
    assert config.optimizer.betas == (0.8, 0.9)
    assert read_config(file(""), ["data.cache=2024", "run.folder=true"]).data.cache == "2024"
    assert read_config(file(""), ["data.cache='2024'"]).data.cache == "2024"
    for change in ("steps=3", "run.steps", "run=3", "run.step=3"):
        with pytest.raises(ConfigError):
            read_config(file(""), [change])


def test_what_is_written_reads_the_same(file, tmp_path):
    clip = 'prompt = "a \\"duck\\" 鸭🦆\\u007f\\n"\nreferences = ["a b.png"]\n'
    config = read_config(file(f"[validation]\nevery = 5\n[[validation.clips]]\n{clip}"))
    assert config.validation.clips == (ClipConfig('a "duck" 鸭🦆\x7f\n', ("a b.png",)),)
    (tmp_path / "again.toml").write_text(write_toml(config), encoding="utf-8")
    again = read_config(tmp_path / "again.toml")
    assert again == config and differences(config, again) == []
    assert differences(config, read_config(file(""), ["run.steps=3"]))[0] == "run.steps: 10 -> 3"
