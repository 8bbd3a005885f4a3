import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from training.evaluation.benchmark import __main__ as benchmark
from training.evaluation.benchmark.measure import Bench, Note, Row
from training.evaluation.benchmark.scale import TINY


def rows_of(folder, part) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads((folder / f"{part}.json").read_text())["rows"]}


def test_a_tiny_run_measures_the_limit_every_form_and_its_loss(tmp_path, monkeypatch, capsys):
    forms = ("int8", "fp8", "unheard of")  # not compiled: half a minute
    monkeypatch.setitem(benchmark.SCALES, "tiny", replace(TINY, forms=forms))
    benchmark.main([str(tmp_path), "--scale", "tiny", "--parts", "forward"])
    found = rows_of(tmp_path, "forward")
    costs = {name: row["cost"] for name, row in found.items() if "cost" in row}
    assert {"limit", "exact bf16", "CFG pair, exact bf16", "int8", "fp8"} <= set(costs)
    assert all(0 < cost["least"] <= cost["seconds"] <= cost["most"] for cost in costs.values())
    parts = sum(cost["seconds"] for name, cost in costs.items() if name.startswith("limit: "))
    assert costs["limit"]["seconds"] == pytest.approx(parts)
    exact = found["exact bf16"]
    assert exact["over_limit"] == pytest.approx(exact["cost"]["seconds"] / costs["limit"]["seconds"])
    assert 0 < found["int8"]["error"] < found["fp8"]["error"] < 5e-2
    assert "ConfigError" in found["unheard of"]["text"], "what fails does not cost the rest"
    assert "| exact bf16 |" in capsys.readouterr().out


def test_what_was_found_before_an_end_by_force_is_kept(tmp_path, monkeypatch):
    def cut_short(bench: Bench) -> Iterator[Row]:
        yield Note("first", "was found")
        raise KeyboardInterrupt

    monkeypatch.setitem(benchmark.PARTS, "growth", cut_short)
    with pytest.raises(KeyboardInterrupt):
        benchmark.main([str(tmp_path), "--scale", "tiny", "--parts", "growth"])
    assert rows_of(tmp_path, "growth")["first"]["text"] == "was found"


def test_a_part_that_fails_says_so_and_the_next_one_runs(tmp_path, monkeypatch):
    def broken(bench: Bench) -> Iterator[Row]:
        raise RuntimeError("no such luck")
        yield

    def sound(bench: Bench) -> Iterator[Row]:
        yield Note("sound", "ran")

    monkeypatch.setitem(benchmark.PARTS, "growth", broken)
    monkeypatch.setitem(benchmark.PARTS, "text", sound)
    benchmark.main([str(tmp_path), "--scale", "tiny", "--parts", "growth,text"])
    assert rows_of(tmp_path, "growth")["growth"]["text"] == "RuntimeError: no such luck"
    assert rows_of(tmp_path, "text")["sound"]["text"] == "ran"


def test_an_unknown_part_is_refused_with_the_known_ones(tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([str(tmp_path), "--parts", "forward,swop"])
    said = capsys.readouterr().err
    assert "swop" in said and "swap" in said
