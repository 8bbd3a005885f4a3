"""Accept or reject pairs by keys: ``python -m training.curation review OUT`` serves one page to this machine only."""

import argparse
import hmac
import io
import json
import logging
import re
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from kaleido_core.errors import ConfigError, DataError
from training.data.record import Picture, Record, Review
from training.typed import build

from .report_sheets import KINDS, as_trained, inside
from .review_decisions import decided, read_decisions, read_plain, save
from .review_page import Item, page, policy

logger = logging.getLogger("kaleido.curation.review")

HOST = "127.0.0.1"
LONGEST_POST = 1000  # bytes


@dataclass(frozen=True)
class Verdict:
    """What the page sends: the pair at ``place`` of its list is accepted, rejected or put back."""

    place: int
    review: Review


class Reviewing:
    """The pairs of a manifest in a fixed order, and every decision on the disk as soon as it is made."""

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self._records = list(decided(read_plain(self.out), read_decisions(self.out)))
        self._pairs = [(n, m) for n, record in enumerate(self._records) for m in range(len(record.references))]
        self._lock = threading.Lock()
        if not self._pairs:
            raise DataError(f"{out} has no pair in its manifest; there is nothing to review.")

    def __len__(self) -> int:
        return len(self._pairs)

    def pair(self, place: int) -> tuple[Record, Picture]:
        record, picture = self._pairs[place]
        return self._records[record], self._records[record].references[picture]

    def items(self) -> list[Item]:
        return [_item(*self.pair(place)) for place in range(len(self))]

    def decide(self, verdict: Verdict) -> None:
        if not 0 <= verdict.place < len(self):
            raise ConfigError(f"place {verdict.place}: 0 to {len(self) - 1} are there. Load the page again.")
        with self._lock:
            number, which = self._pairs[verdict.place]
            record = self._records[number]
            pictures = list(record.references)
            pictures[which] = replace(pictures[which], review=verdict.review)
            self._records[number] = replace(record, references=tuple(pictures))
            # Read anew: a run of curation or another review may have written since this page was opened.
            decisions = read_decisions(self.out)
            decisions[record.id, pictures[which].path] = verdict.review
            save(self.out, decided(read_plain(self.out), decisions), decisions)

    def video(self, place: int) -> bytes:
        return inside(self.out, self.pair(place)[0].video).read_bytes()

    def picture(self, place: int) -> bytes:
        """A PNG of the picture as training sees it."""
        picture = self.pair(place)[1]
        content = io.BytesIO()
        Image.fromarray(as_trained(self.out, picture)).save(content, "PNG")
        return content.getvalue()


def _item(record: Record, picture: Picture) -> Item:
    kind = KINDS.get(picture.kind, picture.kind) or picture.role
    return Item(record.id, record.caption, picture.label or picture.subject, kind, picture.review)


class Server(ThreadingHTTPServer):
    """Listens on the loopback address; ``token`` is known to who was given ``address``, to no other page or user."""

    daemon_threads = True

    def __init__(self, reviewing: Reviewing, port: int) -> None:
        super().__init__((HOST, port), Handler)
        self.reviewing = reviewing
        self.token = secrets.token_urlsafe(24)
        names = (HOST, "localhost")
        self.hosts = {f"{name}:{self.server_port}" for name in names}

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/?token={self.token}"


@dataclass(frozen=True)
class Answer:
    """What goes back."""

    status: int
    kind: str
    content: bytes
    headers: tuple[tuple[str, str], ...] = field(default=())


def text(status: int, words: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", words.encode())


class Handler(BaseHTTPRequestHandler):
    """Three things to read, ``/``, ``/clip/N`` and ``/picture/N``, and one to send, ``/decide``: no path of a file."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "kaleido", ""

    def do_GET(self) -> None:
        self._send(self._refused(self._asked_token()) or self._found())

    def do_POST(self) -> None:
        self._send(self._refused(self.headers.get("X-Token", "")) or self._decided())

    def log_message(self, format: str, *args: object) -> None:
        logger.debug("%s", urlsplit(self.path).path)  # without the token

    def _asked_token(self) -> str:
        return parse_qs(urlsplit(self.path).query).get("token", [""])[0]

    def _refused(self, token: str) -> Answer | None:
        """Another host's name means that a foreign page had its name resolved to us; another origin that it posts."""
        if self.headers.get("Host", "") not in self.server.hosts:
            return text(403, "This page answers to 127.0.0.1 only.")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in self.server.hosts}:
            return text(403, "Another page may not ask here.")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return text(403, "The token is missing or old: open the address that the command printed.")
        return None

    def _found(self) -> Answer:
        path = urlsplit(self.path).path
        if path == "/":
            nonce = secrets.token_urlsafe(12)
            content = page(self.server.reviewing.items(), nonce).encode()
            return Answer(200, "text/html; charset=utf-8", content, (("Content-Security-Policy", policy(nonce)),))
        asked = re.fullmatch(r"/(clip|picture)/([0-9]{1,9})", path)
        if not asked or int(asked[2]) >= len(self.server.reviewing):
            return text(404, "There is no such thing here.")
        try:
            if asked[1] == "picture":
                return Answer(200, "image/png", self.server.reviewing.picture(int(asked[2])))
            return self._part(Answer(200, "video/mp4", self.server.reviewing.video(int(asked[2]))))
        except (DataError, OSError) as error:
            logger.warning("%s", error)
            return text(404, "It cannot be shown; the log says why.")

    def _part(self, whole: Answer) -> Answer:
        """The bytes a player asks for; without ranges some do not play at all."""
        asked = re.fullmatch(r"bytes=([0-9]{1,15})-([0-9]{0,15})", self.headers.get("Range", ""))
        size = len(whole.content)
        if not asked or int(asked[1]) > (last := min(int(asked[2] or size), size - 1)):
            return whole
        first = int(asked[1])
        told = (("Content-Range", f"bytes {first}-{last}/{size}"), ("Accept-Ranges", "bytes"))
        return Answer(206, whole.kind, whole.content[first : last + 1], told)

    def _decided(self) -> Answer:
        size = self.headers.get("Content-Length", "")
        json_sent = self.headers.get("Content-Type", "") == "application/json"
        if self.path != "/decide" or not json_sent or not size.isascii() or not size.isdigit():
            return text(400, "A decision as JSON is needed.")
        if int(size) > LONGEST_POST:
            return text(413, "That is too long for a decision.")
        try:
            self.server.reviewing.decide(build(Verdict, json.loads(self.rfile.read(int(size)))))
        except (ValueError, ConfigError) as error:
            return text(400, str(error))
        except OSError as error:
            return text(500, str(error))
        return text(200, "saved")

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.content)))
        # The address holds the token: it goes to no other site, and pictures of people stay in no cache.
        fixed = (("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-store"), ("X-Frame-Options", "DENY"))
        for name, value in (*fixed, ("X-Content-Type-Options", "nosniff"), *answer.headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.content)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.curation review", description=__doc__)
    parser.add_argument("out", type=Path, help="the folder that curation wrote")
    parser.add_argument("--port", type=int, default=8123)
    options = parser.parse_args(words)
    server = Server(Reviewing(options.out), options.port)
    print(f"{server.address}\nCtrl-C ends it; every decision is saved at once.", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
