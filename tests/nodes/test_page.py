"""What an artist does, in a real browser: open the templates, choose one, press Run, see the clip.

Needs KALEIDO_COMFYUI_URL (a running ComfyUI with this pack), playwright, and a Chromium that KALEIDO_CHROMIUM names.
Screenshots go to KALEIDO_SCREENSHOTS, if that is set.
"""

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

URL = os.environ.get("KALEIDO_COMFYUI_URL", "")
CHROMIUM = os.environ.get("KALEIDO_CHROMIUM", "/usr/bin/chromium")
SCREENSHOTS = os.environ.get("KALEIDO_SCREENSHOTS")
SOFTWARE_GRAPHICS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
DEMOS = {"kaleido_demo_1_reference": 1, "kaleido_demo_2_references": 2, "kaleido_demo_3_references": 3}

pytestmark = pytest.mark.skipif(not URL, reason="KALEIDO_COMFYUI_URL is not set")


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_GRAPHICS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(URL, wait_until="domcontentloaded", timeout=120_000)
        page.wait_for_function("window.app?.graph && document.querySelector('#graph-canvas')", timeout=120_000)
        page.wait_for_timeout(3000)
        yield page
        browser.close()


def shoot(page: Any, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=str(Path(SCREENSHOTS, f"{name}.png")), timeout=240_000)


def history() -> dict[str, Any]:
    with urllib.request.urlopen(f"{URL}/history") as answer:
        return json.load(answer)


def open_template(page: Any, name: str, references: int) -> None:
    page.evaluate("() => window.app.graph.clear()")
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    # An event, not a click: on a slow machine the dialog moves for longer than playwright waits.
    page.get_by_text("ComfyUI-Kaleido", exact=True).first.dispatch_event("click")
    page.wait_for_timeout(2000)
    shoot(page, "templates")
    page.get_by_text(name, exact=True).first.dispatch_event("click")
    page.wait_for_function(
        "count => window.app.graph._nodes.filter(n => n.type === 'KaleidoDemoReferences').length === count",
        arg=references,
    )
    page.wait_for_timeout(1500)


def finished(before: set[str], seconds: int = 300) -> dict[str, Any]:
    """The one run that is in the history now and was not ``before``."""
    end = time.monotonic() + seconds
    while not (new := {key: run for key, run in history().items() if key not in before}):
        assert time.monotonic() < end, "no run came to its end"
        time.sleep(1)
    (run,) = new.values()
    return run


@pytest.mark.parametrize(("name", "references"), DEMOS.items())
def test_a_demo_template_runs_from_the_browser_and_its_clip_plays_in_the_page(page: Any, name: str, references: int):
    before = set(history())
    open_template(page, name, references)
    assert page.evaluate("() => window.app.graph._nodes.filter(n => n.has_errors).map(n => n.type)") == []
    page.evaluate("() => window.app.queuePrompt(0)")
    run = finished(before)
    assert run["status"]["status_str"] == "success"
    (clip,) = (
        saved["filename"] for output in run["outputs"].values() if output.get("animated") for saved in output["images"]
    )
    page.wait_for_function(
        "clip => [...document.querySelectorAll('video')].some(v => v.src.includes(clip) && v.readyState >= 2)",
        arg=clip,
        timeout=60_000,
    )
    page.wait_for_timeout(1500)
    shoot(page, name)


def test_a_saved_clip_dropped_on_the_page_restores_its_graph(page: Any):
    outputs = [o for run in history().values() for o in run["outputs"].values() if o.get("animated")]
    saved = outputs[-1]["images"][0]
    page.evaluate("() => window.app.graph.clear()")
    page.evaluate(
        """async ([url, name]) => {
            const file = new File([await (await fetch(url)).blob()], name, {type: 'video/mp4'});
            await window.app.handleFile(file);
        }""",
        [f"{URL}/view?filename={saved['filename']}&subfolder={saved['subfolder']}&type=output", saved["filename"]],
    )
    page.wait_for_function("() => window.app.graph._nodes.some(n => n.type === 'KaleidoReferences')", timeout=20_000)


@pytest.mark.parametrize("node_id", ["KaleidoReferences", "KaleidoDemoModel"])
def test_help_pages_are_where_the_page_asks_for_them(node_id: str):
    for name in (f"{node_id}.md", f"{node_id}/zh.md"):
        with urllib.request.urlopen(f"{URL}/extensions/ComfyUI-Kaleido/docs/{name}") as answer:
            assert len(answer.read()) > 200


def test_translations_reach_the_page():
    with urllib.request.urlopen(f"{URL}/i18n") as answer:
        texts = json.load(answer)
    assert texts["zh"]["nodeDefs"]["KaleidoReferences"]["display_name"] != texts["en"]["nodeDefs"]["KaleidoReferences"]
