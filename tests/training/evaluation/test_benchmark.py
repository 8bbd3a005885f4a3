import json
import sys

from training.evaluation import benchmark


def test_a_small_run_measures_every_form_and_its_loss(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", str(tmp_path), "--small"])
    forms = (benchmark.EXACT, "int8", "fp8", "unheard of")  # not compiled: half a minute
    monkeypatch.setattr(benchmark, "FORMS", forms)
    benchmark.main()
    report = json.loads((tmp_path / "benchmark.json").read_text())
    found = {one["name"]: one for one in report["measures"]}
    assert {"limit", "exact bf16", "int8", "fp8"} <= set(found)
    assert all(0 < one["least"] <= one["seconds"] <= one["most"] for one in found.values())
    assert 0 < found["int8"]["error"] < found["fp8"]["error"] < 5e-2
    assert found["limit"]["seconds"] < found["exact bf16"]["seconds"] * 3
    said = capsys.readouterr().out
    assert "| exact bf16 |" in said and "unheard of: ConfigError" in said, "what fails does not cost the rest"
