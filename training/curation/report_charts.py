"""The report's drawings: bars of the funnel and histograms, as HTML and inline SVG in the page's own colours."""

import math
from collections.abc import Sequence
from html import escape

from .report_numbers import Cost, Limit, Score, Step

WIDTH, HEIGHT, FLOOR, CEILING = 300, 150, 128, 22  # of a histogram; bars stand between floor and ceiling
BINS = 24


def short(value: float) -> str:
    """A number as people write it: three digits that matter."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def funnel_rows(steps: Sequence[Step]) -> str:
    """One row a stage: a bar of what it kept and dropped, and its reasons."""
    most = max((step.entered for step in steps), default=1) or 1
    return "".join(_funnel_row(step, most) for step in steps)


def _funnel_row(step: Step, most: int) -> str:
    reasons = "".join(f"<li>{escape(reason)} <b>{count}</b></li>" for reason, count in step.reasons.items())
    parts = f'<i class="kept" style="width:{100 * step.kept / most:.2f}%"></i>'
    parts += f'<i class="dropped" style="width:{100 * step.dropped / most:.2f}%"></i>'
    return (
        f'<tr><th scope="row">{escape(step.stage)}</th><td class="bar"><div>{parts}</div></td>'
        f'<td class="number">{step.kept}<small> of {step.entered}</small></td>'
        f'<td><ul class="chips">{reasons}</ul></td></tr>'
    )


def cost_rows(costs: Sequence[Cost]) -> str:
    most = max((cost.total for cost in costs), default=1.0) or 1.0
    return "".join(
        f'<tr><th scope="row">{escape(cost.stage)}</th><td class="bar"><div><i class="plain" '
        f'style="width:{100 * cost.total / most:.2f}%"></i></div></td>'
        f'<td class="number">{cost.total:.1f}</td><td class="number">{cost.clips}</td>'
        f'<td class="number">{cost.each:.2f}</td><td class="number">{cost.longest:.2f}</td></tr>'
        for cost in costs
    )


def histogram(score: Score) -> str:
    """Kept clips stand on the floor, dropped ones on top of them; a dashed line at each threshold."""
    low, high = _range(score)
    good, bad = (_counts(values, low, high) for values in (score.kept, score.dropped))
    tallest = max(map(sum, zip(good, bad, strict=True))) or 1
    wide = WIDTH / BINS
    bars = ""
    for number, (some, more) in enumerate(zip(good, bad, strict=True)):
        tall, taller = ((FLOOR - CEILING) * count / tallest for count in (some, more))
        left = number * wide
        bars += _bar("kept", left, FLOOR - tall, wide, tall) + _bar(
            "dropped", left, FLOOR - tall - taller, wide, taller
        )
    lines = "".join(_line(limit, low, high, place) for place, limit in enumerate(score.limits))
    total = len(score.values)
    return (
        f'<figure class="histogram"><figcaption>{escape(score.name)} <small>{total} clips</small></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(score.name)}">'
        f'{bars}<line class="floor" x1="0" x2="{WIDTH}" y1="{FLOOR}" y2="{FLOOR}"/>{lines}'
        f'<text x="0" y="{HEIGHT - 6}">{short(low)}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 6}" text-anchor="end">{short(high)}</text></svg></figure>'
    )


def _range(score: Score) -> tuple[float, float]:
    """What the histogram shows: all values but the outermost hundredth, and all thresholds among or near them."""
    values = sorted(score.values)
    cut = len(values) // 100
    low, high = values[cut], values[-1 - cut]
    reach = (high - low) or abs(high) or 1.0
    for limit in score.limits:
        if low - reach <= limit.value <= high + reach:
            low, high = min(low, limit.value - 0.05 * reach), max(high, limit.value + 0.05 * reach)
    if high <= low:
        low, high = low - 0.5 * reach, high + 0.5 * reach
    return (low if values[0] < 0 else max(low, 0.0)), high  # no axis of sizes and shares begins below nothing


def _counts(values: Sequence[float], low: float, high: float) -> list[int]:
    counts = [0] * BINS
    for value in values:
        counts[min(max(int((value - low) / (high - low) * BINS), 0), BINS - 1)] += 1
    return counts


def _bar(name: str, left: float, top: float, wide: float, tall: float) -> str:
    if not tall:
        return ""
    return f'<rect class="{name}" x="{left + 0.5:.1f}" y="{top:.1f}" width="{wide - 1:.1f}" height="{tall:.1f}"/>'


def _line(limit: Limit, low: float, high: float, place: int) -> str:
    at = (limit.value - low) / (high - low) * WIDTH
    if not 0 <= at <= WIDTH:
        return ""
    anchor, aside = ("end", at - 4) if at > WIDTH / 2 else ("start", at + 4)
    sign = "&gt;" if limit.above else "&lt;"
    return (
        f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{FLOOR}"/><text class="limit" x="{aside:.1f}" '
        f'y="{14 + 13 * place}" text-anchor="{anchor}">{escape(limit.reason)}: {sign} {short(limit.value)}</text>'
    )
