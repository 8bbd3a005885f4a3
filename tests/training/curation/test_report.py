"""The report on a run: what it counts is right, and the page is whole and needs nothing else."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kaleido_core.errors import DataError
from training.curation.clip import Clip, Drop
from training.curation.config import CurationConfig
from training.curation.models.kinds import Pixels
from training.curation.report import write_report
from training.curation.report_charts import histogram, short
from training.curation.report_limits import limits
from training.curation.report_numbers import Limit, Score, costs, edges, funnel, origins, refusals, scores, stage_order
from training.data.record import Picture, Source

STAGES = {"ingest": "1", "quality": "2", "pairs": "1"}


def clip(name: str, luma: float, **changes: object) -> Clip:
    source = Source(f"raw/{name}.mp4", name, "CC-BY")
    made = Clip(name, source, end=2.0, width=640, height=480, metrics={"luma": luma}, stages=STAGES)
    return replace(made, seconds={"ingest": 0.5, "quality": 1.0}, **changes)  # pyright: ignore[reportArgumentType]


def dark(name: str, luma: float) -> Clip:
    return clip(name, luma, stages={"ingest": "1"}).leave("quality", "dark", luma, 25.0, metric="luma")


BRIGHT, DIM, DARK, DARKER = clip("a", 120.0), clip("b", 27.0), dark("c", 24.0), dark("d", 3.0)
ALL = [DARKER, BRIGHT, DIM, DARK]


def grey(path: Path, times: Sequence[float]) -> list[Pixels]:
    return [np.full((60, 80, 3), 128, np.uint8) for _ in times]


def test_stages_come_in_the_order_of_the_run_also_when_the_first_clip_was_dropped_early():
    assert stage_order(ALL) == ["ingest", "quality", "pairs"]


def test_what_a_stage_keeps_is_what_enters_the_next_one():
    steps = funnel(ALL)
    assert [(step.entered, step.kept) for step in steps] == [(4, 4), (4, 2), (2, 2)]
    assert steps[1].reasons == {"dark": 2}


def test_a_threshold_is_found_with_its_metric_and_the_side_that_is_dropped(tmp_path: Path):
    (limit,) = limits(tmp_path, ALL)
    assert (limit.metric, limit.value, limit.above) == ("luma", 25.0, False)
    (loud,) = limits(tmp_path, [clip("x", 250.0).leave("quality", "bright", 250.0, 240.0, metric="luma")])
    assert loud.above


def test_a_drop_that_names_no_metric_is_no_threshold_of_one(tmp_path: Path):
    still = clip("x", 0.0).leave("subjects", "no subject", 0.0, 1.0)
    assert limits(tmp_path, [still]) == ()


def test_thresholds_of_the_settings_are_drawn_also_when_they_dropped_nothing_and_are_no_borderline(tmp_path: Path):
    (tmp_path / "settings.json").write_text(json.dumps(asdict(CurationConfig())))
    known = limits(tmp_path, [BRIGHT, DIM])
    assert {(limit.reason, limit.above) for limit in known if limit.metric == "luma"} == {
        ("dark", False),
        ("bright", True),
    }
    assert "dark: &lt; 25" in histogram(scores([BRIGHT, DIM], known)[0])
    assert edges([BRIGHT, DIM], known) == ()


def test_the_borderline_cases_are_the_nearest_to_the_threshold_on_both_sides(tmp_path: Path):
    (edge,) = edges(ALL, limits(tmp_path, ALL), count=1)
    assert edge.worst_kept == ((DIM, 27.0),)
    assert edge.best_dropped == ((DARK, 24.0),)


def test_scores_tell_kept_from_dropped(tmp_path: Path):
    (score,) = scores(ALL, limits(tmp_path, ALL))
    assert (sorted(score.kept), sorted(score.dropped)) == ([27.0, 120.0], [3.0, 24.0])


def test_a_histogram_stands_for_every_value_and_shows_the_threshold(tmp_path: Path):
    drawn = histogram(scores(ALL, limits(tmp_path, ALL))[0])
    assert "dark: &lt; 25" in drawn
    assert drawn.count('class="kept"') == drawn.count('class="dropped"') == 2


@pytest.mark.parametrize("values", [(0.0,), (5.0, 5.0), (-1e-9, 1e9)])
def test_a_histogram_of_any_values_has_numbers_only(values: tuple[float, ...]):
    assert "nan" not in histogram(Score("metric", values, (), ()))


def test_an_axis_begins_below_nothing_only_where_values_do():
    limit = Limit("quality", "blurry", "sharp", 40.0, above=False)
    begins = [histogram(Score("sharp", (least, 9000.0), (), (limit,))).split('">')[-2] for least in (50.0, -50.0)]
    assert begins[0].startswith("0<") and begins[1].startswith("-")


def test_numbers_have_three_digits_that_matter():
    assert [short(value) for value in (0.0, 0.01234, 12345.6, 2.0)] == ["0", "0.0123", "12,346", "2"]


def test_costs_and_origins_add_up():
    assert [(cost.stage, cost.total, cost.each) for cost in costs(ALL)] == [("ingest", 2.0, 0.5), ("quality", 4.0, 1.0)]
    (origin,) = origins(ALL)
    assert (origin.videos, origin.clips, origin.kept, origin.seconds) == (4, 4, 2, 4.0)


def test_refused_pictures_are_counted_by_stage_and_reason():
    refused = (Drop("references", "blur"), Drop("references", "blur"), Drop("subjects", "size"))
    assert [(step.stage, dict(step.reasons)) for step in refusals([replace(BRIGHT, refused=refused)])] == [
        ("references", {"blur": 2}),
        ("subjects", {"size": 1}),
    ]


def test_the_page_shows_its_own_files_and_asks_nothing_of_a_network(tmp_path: Path):
    reference = Picture("references/a/cat.png", "t0", "<cat>", kind="cross_clip", review="accept")
    (tmp_path / "references" / "a").mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(tmp_path / reference.path)
    page = write_report(tmp_path, [replace(BRIGHT, references=(reference,)), DIM, DARK, DARKER], grey).read_text()
    shown = re.findall(r'src="([^"]+)"', page)
    assert len(shown) >= 9
    assert all((tmp_path / path).is_file() for path in shown)
    assert not re.search(r"https?://|<script|<link", page)
    assert "&lt;cat&gt;" in page and "<cat>" not in page
    assert "✓ accepted" in page


def test_a_clip_that_cannot_be_read_is_named_and_the_page_still_written(tmp_path: Path):
    def broken(path: Path, times: Sequence[float]) -> list[Pixels]:
        raise DataError("no picture")

    assert "cannot be shown" in write_report(tmp_path, [BRIGHT], broken).read_text()


def test_ids_and_paths_that_lead_out_of_the_folder_show_and_write_nothing_there(tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    out = tmp_path / "out"
    out.mkdir()
    reference = Picture("../secret.png", "t0", "cat", kind="masked")
    odd = replace(clip("../../x", 100.0), references=(reference,), video="../secret.mp4")
    with pytest.raises(DataError, match="lies outside"):
        write_report(out, [odd], grey)
    odd = replace(odd, id="y" * 190)
    page = write_report(out, [odd], grey).read_text()
    assert "missing" in page and "cannot be shown" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "secret.png"]


def test_a_folder_that_someone_else_made_is_not_emptied(tmp_path: Path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine.txt").touch()
    with pytest.raises(DataError, match="was not made by curation"):
        write_report(tmp_path, ALL, grey)
    assert (tmp_path / "report" / "mine.txt").exists()


def test_throughput_names_engine_and_workers(tmp_path: Path):
    entry = {"engine": "ray", "workers": 3, "stages": ["subjects"], "clips": 8, "seconds": 2.0}
    (tmp_path / "runs.jsonl").write_text(2 * (json.dumps(entry) + "\n"))
    page = write_report(tmp_path, ALL, grey).read_text()
    assert re.search(r'subjects</th><td>ray</td><td class="number">3</td><td class="number">16</td>.*?>4</td>', page)


def test_two_reports_of_one_run_are_the_same(tmp_path: Path):
    first = write_report(tmp_path, ALL, grey).read_bytes()
    assert write_report(tmp_path, ALL, grey).read_bytes() == first


def test_a_report_on_nothing_says_what_to_do(tmp_path: Path):
    with pytest.raises(DataError, match="Run the curation"):
        write_report(tmp_path, [], grey)
