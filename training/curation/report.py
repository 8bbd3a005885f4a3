"""One static page on a run of curation: ``python -m training.curation report OUT`` writes ``OUT/report.html``."""

import argparse
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from kaleido_core.errors import DataError

from . import timings
from .clip import Clip
from .own_folder import renew
from .report_charts import cost_rows, funnel_rows, histogram, short
from .report_limits import limits
from .report_numbers import Limit, Origin, costs, edges, funnel, kept, origins, refusals, scores
from .report_page import Figure, Section, page, table
from .report_sheets import ReadPictures, Sheets, read_alike

FOLDER = "report"  # of the page's pictures, beside it
CLIPS, PAIRS = 80, 120  # shown at most; the note says of how many
KEY = '<span class="key"><i class="kept"></i>kept<i class="dropped"></i>dropped</span>'


def write_report(out: Path, clips: Sequence[Clip], read_pictures: ReadPictures) -> Path:
    """``report.html`` in ``out``, its pictures in a folder beside it; what an earlier report left there goes."""
    if not clips:
        raise DataError(f"{out} holds no clips; there is nothing to report. Run the curation into it first.")
    renew(out / FOLDER)
    text = page(
        f"Curation of {out.resolve().name}", _subtitle(clips), _figures(clips), _sections(out, clips, read_pictures)
    )
    part = out / "report.html.part"
    part.write_text(text, encoding="utf-8")
    os.replace(part, out / "report.html")
    return out / "report.html"


def _subtitle(clips: Sequence[Clip]) -> str:
    versions: dict[str, str] = {}
    for clip in clips:
        versions |= clip.stages
    return "Stages: " + ", ".join(f"{stage} {version}" for stage, version in versions.items())


def _figures(clips: Sequence[Clip]) -> list[Figure]:
    good = kept(clips)
    pictures = [picture for clip in good for picture in clip.references]
    seconds = sum(sum(clip.seconds.values()) for clip in clips)
    return [
        Figure(str(len({clip.source.path for clip in clips})), "videos"),
        Figure(str(len(clips)), "clips found"),
        Figure(str(len(good)), "clips kept"),
        Figure(f"{sum(clip.end - clip.start for clip in good) / 60:.1f}", "minutes kept"),
        Figure(str(len(pictures)), "references"),
        Figure(str(sum(picture.kind == "cross_clip" for picture in pictures)), "cross-pairs"),
        Figure(f"{seconds / len(clips):.2f}", "seconds a clip"),
    ]


def _sections(out: Path, clips: Sequence[Clip], read_pictures: ReadPictures) -> list[Section]:
    sheets, known = Sheets(out, FOLDER, read_pictures), limits(out, clips)
    return [_funnel(clips), _scores(clips, known), _clips(clips, sheets), _pairs(clips, sheets),
            _edges(clips, known, sheets), _times(out, clips), _sources(clips)]  # fmt: skip


def _funnel(clips: Sequence[Clip]) -> Section:
    body = table(("stage", "", "#kept", "dropped for"), funnel_rows(funnel(clips)))
    refused = refusals(clips)
    if refused:
        rows = "".join(
            f'<tr><th scope="row">{escape(step.stage)}</th><td class="number">{step.entered}</td><td><ul class="chips">'
            + "".join(f"<li>{escape(reason)} <b>{count}</b></li>" for reason, count in step.reasons.items())
            + "</ul></td></tr>"
            for step in refused
        )
        body += "<h3 style='margin-top:24px'>Tracks and pictures refused</h3>"
        body += table(("stage", "#refused", "for"), rows)
    return Section("funnel", "Funnel", f"What each stage kept and why it dropped the rest. {KEY}", body)


def _scores(clips: Sequence[Clip], known: Sequence[Limit]) -> Section:
    found = scores(clips, known)
    drawn = "".join(histogram(score) for score in found if score.limits or score.varies)
    same = [f"{score.name} {short(score.values[0])}" for score in found if not (score.limits or score.varies)]
    body = f'<div class="grid">{drawn}</div>'
    body += f'<p class="note">The same for all clips: {escape(", ".join(same))}.</p>' if same else ""
    note = f"Every metric over all clips that have it. A dashed line is a threshold. {KEY}"
    return Section("scores", "Scores", note, body)


def _clips(clips: Sequence[Clip], sheets: Sheets) -> Section:
    good = kept(clips)
    note = f"Kept clips with their references as training sees them; {_shown(CLIPS, len(good))}."
    return Section("clips", "Clips", note, "".join(sheets.clip(clip) for clip in good[:CLIPS]))


def _pairs(clips: Sequence[Clip], sheets: Sheets) -> Section:
    cases = []
    for clip in kept(clips):
        alike = read_alike(sheets.out, clip)
        cases += [(clip, item, alike.get(item.path)) for item in clip.references if item.kind == "cross_clip"]
    cases.sort(key=lambda case: case[2].likeness if case[2] else 0.0)
    note = f"A clip and a picture of the same subject from another one, least alike first; {_shown(PAIRS, len(cases))}."
    body = "".join(sheets.cross(*case) for case in cases[:PAIRS]) or "<p>There are none in this run.</p>"
    return Section("pairs", "Cross-pairs", note, f'<div class="pairs">{body}</div>')


def _edges(clips: Sequence[Clip], known: Sequence[Limit], sheets: Sheets) -> Section:
    note = "For every threshold that dropped a clip: what nearly failed and what nearly passed."
    body = "".join(sheets.edge(edge) for edge in edges(clips, known))
    return Section("edges", "At the thresholds", note, body or "<p>No threshold dropped a clip.</p>")


def _times(out: Path, clips: Sequence[Clip]) -> Section:
    body = table(("stage", "", "#seconds", "#clips", "#a clip", "#longest"), cost_rows(costs(clips)))
    done = "".join(map(_entry_row, timings.read(out)))
    if done:
        heads = ("stages at once", "engine", "#workers", "#clips", "#seconds on the wall", "#clips a second")
        body += f"<h3 style='margin-top:24px'>Throughput</h3>{table(heads, done)}"
    note = "Seconds of work in each stage, over all workers; below, what all of them together did in real time."
    return Section("time", "Time", note, body)


def _entry_row(entry: timings.Entry) -> str:
    speed = f"{entry.clips / max(entry.seconds, 1e-3):.3g}"
    numbers = (str(entry.workers), str(entry.clips), f"{entry.seconds:.1f}", speed)
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return f'<tr><th scope="row">{escape(", ".join(entry.stages))}</th><td>{escape(entry.engine)}</td>{cells}</tr>'


def _sources(clips: Sequence[Clip]) -> Section:
    rows = "".join(_origin_row(origin) for origin in origins(clips))
    body = table(("licence", "#videos", "#clips", "#kept", "#seconds kept", "from"), rows)
    return Section("sources", "Sources", "Where the clips come from, and under which licence.", body)


def _origin_row(origin: Origin) -> str:
    numbers = (str(origin.videos), str(origin.clips), str(origin.kept), f"{origin.seconds:.0f}")
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    urls = "<br>".join(escape(url) for url in origin.urls[:5])
    return f'<tr><th scope="row">{escape(origin.licence)}</th>{cells}<td>{urls}</td></tr>'


def _shown(most: int, total: int) -> str:
    return f"all {total}" if total <= most else f"the first {most} of {total}"


def main(words: Sequence[str] | None = None) -> None:
    from .clips_file import read_clips  # pyright: ignore[reportMissingImports]
    from .video import read_pictures

    parser = argparse.ArgumentParser(prog="python -m training.curation report", description=__doc__)
    parser.add_argument("out", type=Path, help="the folder that curation wrote")
    out = parser.parse_args(words).out
    print(write_report(out, read_clips(out / "clips.jsonl"), read_pictures))


if __name__ == "__main__":
    main()
