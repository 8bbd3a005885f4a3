import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from kaleido_core import cli
from kaleido_core.checkpoints.save import save_weights
from kaleido_core.cli import convert as convert_command
from kaleido_core.cli import generate as command
from kaleido_core.errors import ShapeError
from kaleido_core.request import DEFAULTS_14B, DEFAULTS_TINY, NEGATIVE_PROMPT
from kaleido_core.request_files import parse_size
from kaleido_core.video import read_metadata, read_video

from .cli_stage import Stage, generate, listing, refused


def test_a_clip_comes_with_its_sheet_and_its_record(stage: Stage, capsys):
    assert generate("--prompt", "a fox", "--reference", "a.png", "--reference", "b.png", "--out", "fox.mp4") == 0
    assert listing() == ["a.png", "b.png", "fox.json", "fox.mp4", "fox.png"]
    assert capsys.readouterr().out.split() == ["fox.mp4", "fox.png", "fox.json"]
    record = json.loads(Path("fox.json").read_text(encoding="utf-8"))
    assert read_metadata("fox.mp4") == record
    assert record["request"]["prompt"] == "a fox" and record["request"]["references"] == ["a.png", "b.png"]
    assert record["request"]["steps"] == DEFAULTS_TINY.steps
    assert [len(reference["sha256"]) for reference in record["references"]] == [64, 64]
    assert len(read_video("fox.mp4")) == DEFAULTS_TINY.frames


def test_settings_left_out_are_the_models_own(stage: Stage):
    generate("--prompt", "a fox", "--frames", "5", "--steps", "2", "--size", "64x32", "--model", "weights.safetensors")
    request = stage.requests[0]
    assert (request.height, request.width, request.frames, request.steps) == (32, 64, 5, 2)
    assert (request.cfg, request.shift, request.fps, request.negative) == (6.0, 7.0, 16, NEGATIVE_PROMPT)


def test_shortcuts_are_recorded_and_replayed(stage: Stage):
    generate("--prompt", "a fox", "--speed", "fast", "--eight-bit", "int8", "--attention", "math",
             "--vae-dtype", "bf16", "--compile", "--out", "fox.mp4")  # fmt: skip
    assert generate("--replay", "fox.mp4", "--out", "again.mp4") == 0
    first, again = stage.requests
    assert first == again and again.vae_dtype == "bf16"
    assert (again.speed, again.eight_bit, again.attention, again.compile) == ("fast", "int8", "math", True)


def test_a_card_may_be_shared(stage: Stage, capsys):
    for asked in (["--vram", "7.5GB"], ["--vram", "512MiB"], ["--vram", "auto"], []):
        generate("--prompt", "a fox", *asked)
    assert stage.rooms == [int(7.5 * 2**30), 2**29, None, None] and "within 7.5 GiB" in capsys.readouterr().err


def test_torch_itself_is_held_to_the_share_of_a_card(monkeypatch):
    said = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 * 2**30))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, index: said.append((share, index)))
    for device, room in (("cuda", 12 * 2**30), ("cuda:1", 48 * 2**30), ("cuda", None), ("cpu", 2**30)):
        command.cap(device, room)
    assert [(share, card.index) for share, card in said] == [(0.5, 2), (1.0, 1)]


@pytest.mark.parametrize("amount", ["12TB", "much", "0", "-3"])
def test_an_amount_of_memory_that_is_none_is_refused(amount: str, stage: Stage, capsys):
    with pytest.raises(SystemExit, match="2"):
        generate("--prompt", "a fox", f"--vram={amount}")
    assert "such as 12GiB" in capsys.readouterr().err and stage.loads == 0


def test_zero_and_empty_are_settings_too(stage: Stage):
    generate("--prompt", "a fox", "--cfg", "0", "--negative", "", "--model", "x", "--size", "32x32", "--frames", "1")
    assert stage.requests[0].cfg == 0 and stage.requests[0].negative == ""


@pytest.mark.parametrize(
    ("name", "large", "tiny"),
    [
        ("landscape", (512, 896), (96, 160)),
        ("portrait", (896, 512), (160, 96)),
        ("square", (672, 672), (128, 128)),
        ("1280x720", (720, 1280), (720, 1280)),
    ],
)
def test_sizes_by_name_keep_the_number_of_pixels(name: str, large, tiny):
    assert parse_size(name, DEFAULTS_14B) == large
    assert parse_size(name, DEFAULTS_TINY) == tiny


def test_unnamed_clips_are_counted_and_never_written_over(stage: Stage, capsys):
    for _ in range(2):
        assert generate("--prompt", "a fox") == 0
    assert {"kaleido-0001.mp4", "kaleido-0002.mp4"} <= set(listing())
    assert "exists already" in refused(capsys, "--prompt", "a fox", "--out", "kaleido-0001.mp4")
    assert generate("--prompt", "a fox", "--out", "kaleido-0001.mp4", "--overwrite") == 0
    Path("new.json").write_text("mine")
    assert "new.json exists already" in refused(capsys, "--prompt", "a fox", "--out", "new.mp4")
    assert Path("new.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--prompt", "x", "--reference", "c.png"], "c.png does not exist"),
        (["--prompt", "x", "--reference", "note.txt"], "note.txt cannot be read"),
        (["--prompt", "x", "--size", "100x128"], "multiples of 16"),
        (["--prompt", "x", "--size", "wide"], "landscape, portrait, square"),
        (["--prompt", "x", "--frames", "16"], "nearest is 17"),
        (["--prompt", "x", *["--reference", "a.png"] * 4], "at most 3"),
        (["--prompt", "x", "--out", "x.gif"], "a clip is an .mp4"),
        (["--prompt", "x", "--device", "toaster"], "cpu always works"),
        (["--prompt", " "], "Describe the clip"),
        (["--list", "none.txt"], "cannot be read"),
        (["--replay", "none.mp4"], "does not exist"),
        (["--replay", "note.json"], "does not say how it was made"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_is_loaded(words: list[str], answer: str, stage: Stage, capsys):
    Path("note.txt").write_text("no image")
    Path("note.json").write_text('{"prompt": 1}')
    before = listing()
    assert answer in refused(capsys, *words)
    assert stage.loads == 0 and listing() == before


def test_more_references_than_trained_need_a_word(stage: Stage):
    assert generate("--prompt", "x", *["--reference", "a.png"] * 4, "--allow-extra-references") == 0
    assert stage.requests[0].allow_extra_references and len(stage.image_sizes[0]) == 4


def test_interrupting_leaves_nothing_and_says_130(stage: Stage, capsys):
    stage.raises = KeyboardInterrupt()
    before = listing()
    assert generate("--prompt", "a fox", "--out", "fox.mp4") == 130
    assert listing() == before and "no partial file" in capsys.readouterr().err


def test_an_error_of_the_core_is_one_clean_message(stage: Stage, capsys):
    stage.raises = ShapeError("too wide")
    assert generate("--prompt", "a fox") == 2
    said = capsys.readouterr().err
    assert said.endswith("\nkaleido: too wide\n") and "Traceback" not in said
    assert listing() == ["a.png", "b.png"]


def test_the_bar_counts_the_steps_on_stderr(stage: Stage, capsys):
    generate("--prompt", "a fox", "--steps", "3")
    said = capsys.readouterr()
    assert "3/3" in said.err and "3/3" not in said.out


def test_the_bar_begins_again_with_sampling(stage: Stage, capsys):
    stage.began_again = 2
    generate("--prompt", "a fox", "--steps", "3")
    assert " 3/3 " in capsys.readouterr().err.rsplit("\r", 1)[1], "a bar that overruns forgets its total"


def test_a_list_makes_a_numbered_clip_of_every_line_and_loads_once(stage: Stage):
    os.mkdir("lists")
    Image.new("RGB", (7, 9)).save("lists/own.png")
    Path("lists/list.txt").write_text("a fox @@own.png@@ a.png\n\na plain meadow\n", encoding="utf-8")
    assert generate("--list", "lists/list.txt", "--steps", "2", "--out", "clips") == 0
    assert listing("clips") == [f"{number}.{kind}" for number in ("001", "003") for kind in ("json", "mp4", "png")]
    assert stage.loads == 1 and stage.image_sizes == [[(7, 9), (20, 30)], []]
    assert [request.prompt for request in stage.requests] == ["a fox ", "a plain meadow"]
    assert generate("--replay", "clips/001.mp4") == 0


def test_the_official_text_is_an_explicit_choice(stage: Stage):
    Path("list.txt").write_text("a fox@@a.png@@b.png", encoding="utf-8")
    generate("--list", "list.txt")
    generate("--list", "list.txt", "--official-text", "--overwrite")
    assert [request.text for request in stage.requests] == ["a fox", "a fox@@a.png@@b.png"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "holds no prompt"),
        ("a fox@@", "line 1"),
        ("ok\n@@a.png", "line 2"),
        ("ok\nx@@c.png", "c.png does not exist"),
    ],
)
def test_a_wrong_line_stops_the_list_before_it_starts(text: str, answer: str, stage: Stage, capsys):
    Path("list.txt").write_text(text, encoding="utf-8")
    assert answer in refused(capsys, "--list", "list.txt")
    assert stage.loads == 0 and "kaleido-clips" not in listing()


def test_a_list_never_writes_over_a_clip(stage: Stage, capsys):
    Path("list.txt").write_text("a fox\na hen\n", encoding="utf-8")
    assert generate("--list", "list.txt") == 0
    assert "exists already" in refused(capsys, "--list", "list.txt")


def test_convert_and_info_explain_what_they_cannot_read(capsys, tmp_path: Path):
    source, target = tmp_path / "notes.safetensors", tmp_path / "out.safetensors"
    source.write_text("no weights")
    assert cli.main(["convert", str(source), str(target)]) == 2
    assert cli.main(["info", str(source)]) == 2
    assert "notes.safetensors" in capsys.readouterr().err and not target.exists()


def test_convert_never_writes_over_a_file(capsys, tmp_path: Path):
    target = tmp_path / "mine.safetensors"
    target.write_text("mine")
    assert cli.main(["convert", str(tmp_path / "x.safetensors"), str(target)]) == 2
    assert "exists already" in capsys.readouterr().err and target.read_text() == "mine"


def test_info_describes_the_embedded_model(capsys):
    assert cli.main(["info", "tiny"]) == 0
    assert "transformer" in capsys.readouterr().out


@pytest.mark.parametrize("out", ["a.png/clip.mp4", "/proc/none/clip.mp4"])
def test_a_place_that_takes_no_files_is_refused_before_the_model_loads(stage: Stage, capsys, out):
    assert generate("--prompt", "a fox", "--out", out) == 2
    assert stage.loads == 0 and "Choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nonsense"])
def test_a_device_that_cannot_compute_is_refused(stage: Stage, capsys, device):
    assert generate("--prompt", "a fox", "--device", device) == 2
    assert stage.loads == 0 and "Leave --device out" in capsys.readouterr().err


def test_convert_merges_loras(tmp_path: Path, monkeypatch):
    merged = []
    monkeypatch.setattr(convert_command, "convert", lambda *given: merged.extend(given[-1]))
    lora = save_lora(tmp_path / "lora.safetensors")
    assert cli.main(["convert", "tiny", str(tmp_path / "out.safetensors"), "--lora", f"{lora}:0.5"]) == 0
    assert [one.strength for one in merged] == [0.5]


def save_lora(path: Path) -> Path:
    """For one layer of the 14B model."""
    layer = "diffusion_model.blocks.0.self_attn.q"
    pair = {f"{layer}.lora_A.weight": torch.ones(1, 5120), f"{layer}.lora_B.weight": torch.ones(5120, 1)}
    save_weights(path, pair)
    return path


def test_plan_counts_the_third_forward_the_speed_and_merged_loras(capsys, tmp_path: Path):
    words = ["plan", "--vram", "24", "--ram", "64"]
    lora = str(save_lora(tmp_path / "lora.safetensors"))
    for more in ([], ["--reference-cfg", "3"], ["--speed", "cached"], ["--lora", lora, "--lora", lora]):
        assert cli.main([*words, *more]) == 0
    plain, third, cached, merged = capsys.readouterr().out.split("It fits.\n")[:4]
    assert "100 forwards" in plain and "100 forwards of 2.56 PFLOP, 50 without references" in third
    assert "60 % of them whole" in cached and "of them whole" not in plain
    assert "at least 4.7" in plain and "at least 4.8" in merged, "0.05 GiB of one layer, once"


def test_plan_tells_whether_a_clip_fits(capsys):
    words = "plan --vram 12GiB --ram 32GiB --size 896x512 --frames 81 --references 3 --weights bf16"
    assert cli.main(words.split()) == 0
    assert "10 of 40 blocks stay" in (said := capsys.readouterr().out) and "It fits." in said
    assert cli.main(["plan", "--vram", "5", "--ram", "32", "--vae-dtype", "bf16"]) == 0
    assert "First change: --eight-bit int8 (" in capsys.readouterr().out
    assert cli.main(["plan", "--vram", "8", "--ram", "16", "--frames", "80"]) == 2


def test_verbose_says_what_is_decided(stage: Stage, monkeypatch):
    levels = []
    monkeypatch.setattr(logging, "basicConfig", lambda format, level: levels.append(level))
    for given in ([], ["-v"]):
        assert cli.main([*given, "generate", "--prompt", "a fox", "--overwrite"]) == 0
    assert levels == ["WARNING", "INFO"]
