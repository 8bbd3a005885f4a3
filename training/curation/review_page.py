"""The page on which pairs are reviewed: one pair at a time, by keys."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #fff; --ink: #22252a; --soft: #6b7078; --line: #e3e0d8;
  --accept: #2f7d6b; --reject: #b3303c; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --card: #1e2125; --ink: #e6e4df; --soft: #9a9fa7;
  --line: #32363c; --accept: #57b39c; --reject: #f07a83; } }
* { box-sizing: border-box; }
body { margin: 0; height: 100vh; display: grid; grid-template-rows: auto auto 1fr auto; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
header, footer { display: flex; flex-wrap: wrap; gap: 6px 22px; align-items: baseline; padding: 12px 24px; }
h1 { font-size: 18px; margin: 0; } small, footer { color: var(--soft); } #problem { color: var(--reject); }
#bar { height: 4px; background: var(--line); display: flex; }
#bar i { display: block; } #bar .accept { background: var(--accept); } #bar .reject { background: var(--reject); }
main { min-height: 0; display: grid; grid-template-columns: 3fr 2fr; gap: 16px; padding: 16px 24px 0; }
figure { margin: 0; min-height: 0; display: flex; flex-direction: column; background: var(--card);
  border: 2px solid var(--line); border-radius: 8px; overflow: hidden; }
body.accept #right { border-color: var(--accept); } body.reject #right { border-color: var(--reject); }
video, img { flex: 1; min-height: 0; width: 100%; object-fit: contain; } img { background: #fff; }
figcaption { padding: 8px 14px; } #verdict { font-weight: 600; }
body.accept #verdict { color: var(--accept); } body.reject #verdict { color: var(--reject); }
button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 4px 14px; cursor: pointer; } kbd { border: 1px solid var(--line); border-radius: 3px; padding: 0 5px; }
@media (max-width: 800px) { main { grid-template-columns: 1fr; } }
"""

SCRIPT = """
const items = JSON.parse(document.getElementById("items").textContent);
const token = new URLSearchParams(location.search).get("token");
const by = (name) => document.getElementById(name);
let at = Math.max(items.findIndex((item) => !item.review), 0), shown = -1, busy = false;
const past = [];

function show() {
  const item = items[at], count = (review) => items.filter((item) => item.review === review).length;
  if (shown < 0 || items[shown].clip !== item.clip) by("film").src = `clip/${at}?token=${token}`;
  by("picture").src = `picture/${at}?token=${token}`;
  shown = at;
  by("place").textContent = `${at + 1} of ${items.length}`;
  by("counts").textContent = `${count("accept")} accepted, ${count("reject")} rejected, ${count("")} to see`;
  by("caption").textContent = item.caption;
  by("name").textContent = item.clip;
  by("label").textContent = item.label;
  by("kind").textContent = item.kind;
  by("verdict").textContent = { accept: "accepted", reject: "rejected", "": "not decided" }[item.review];
  document.body.className = item.review;
  for (const review of ["accept", "reject"])
    document.querySelector("#bar ." + review).style.width = `${100 * count(review) / items.length}%`;
}

async function decide(place, review) {
  const answer = await fetch("decide", { method: "POST",
    headers: { "Content-Type": "application/json", "X-Token": token }, body: JSON.stringify({ place, review }) });
  if (!answer.ok) throw new Error(await answer.text());
  items[place].review = review;
}

function go(step) { at = Math.min(Math.max(at + step, 0), items.length - 1); show(); }

async function act(key) {
  if (key === "ArrowRight" || key === "ArrowLeft") return go(key === "ArrowRight" ? 1 : -1);
  if (busy || !["a", "r", "u"].includes(key)) return;
  busy = true;
  try {
    if (key === "u") {
      const last = past.at(-1);
      if (last) { await decide(last.place, last.review); past.pop(); at = last.place; show(); }
    } else {
      const before = { place: at, review: items[at].review };
      await decide(at, key === "a" ? "accept" : "reject");
      past.push(before);
      show();
      go(1);
    }
    by("problem").textContent = "";
  } catch (error) { by("problem").textContent = `Not saved: ${error.message}`; }
  busy = false;
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.startsWith("Arrow")) event.preventDefault();
  act(event.key.length === 1 ? event.key.toLowerCase() : event.key);
});
for (const button of document.querySelectorAll("button"))
  button.addEventListener("click", () => { button.blur(); act(button.dataset.key); });
show();
"""

BODY = """
<header><h1>Review of pairs</h1><span id="place"></span><small id="counts"></small><b id="problem" role="alert"></b>
</header><div id="bar"><i class="accept"></i><i class="reject"></i></div>
<main><figure><video id="film" muted loop autoplay playsinline controls></video>
<figcaption><span id="caption"></span><br><small id="name"></small></figcaption></figure>
<figure id="right"><img id="picture" alt="the reference"><figcaption><span id="label"></span>
<small id="kind"></small><br><span id="verdict" role="status"></span></figcaption></figure></main>
<footer><button data-key="a"><kbd>a</kbd> accept</button><button data-key="r"><kbd>r</kbd> reject</button>
<button data-key="u"><kbd>u</kbd> undo</button><button data-key="ArrowLeft"><kbd>←</kbd> back</button>
<button data-key="ArrowRight"><kbd>→</kbd> next</button>
<span>Same subject, clean, and not a copy of the clip? Every key is saved at once.</span></footer>
"""


@dataclass(frozen=True)
class Item:
    """A picture beside its clip, as the page knows it; files are asked for by its place in the list."""

    clip: str
    caption: str
    label: str
    kind: str
    review: str


def page(items: Sequence[Item], nonce: str) -> str:
    """``nonce`` marks the one script that may run."""
    # A caption may hold anything, also "</script>": nothing in the data may end the element it stands in.
    data = json.dumps([asdict(item) for item in items]).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Review of pairs</title>'
        '<link rel="icon" href="data:,">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>{BODY}'
        f'<script type="application/json" id="items">{data}</script><script nonce="{nonce}">{SCRIPT}</script>'
        "</body></html>\n"
    )


def policy(nonce: str) -> str:
    """What the browser may load for the page: its own files, its own script."""
    return (
        "default-src 'none'; img-src 'self' data:; media-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
        f"script-src 'nonce-{nonce}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
