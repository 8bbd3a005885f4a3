"""Reviewing: decisions reach the disk whole and survive a new run, and nobody else can make or see them."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from kaleido_core.errors import DataError
from training.curation.review import Reviewing, Server, Verdict
from training.curation.review_decisions import decided, read_decisions, read_plain
from training.data.record import Picture, Record, write_manifest

RECORDS = (
    Record("one", "videos/1.mp4", "A cat </script><b>.", references=(Picture("a.png", "t0"), Picture("b.png", "t1"))),
    Record("two", "../secret.mp4", "A dog.", references=(Picture("../secret.png", "t0"),)),
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "videos").mkdir(parents=True)
    (folder / "videos" / "1.mp4").write_bytes(bytes(range(100)))
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    for name in ("out/a.png", "out/b.png", "secret.png"):
        Image.new("RGB", (8, 6), "red").save(tmp_path / name)
    write_manifest(folder / "manifest.jsonl", RECORDS)
    return folder


@pytest.fixture
def server(out: Path) -> Iterator[Server]:
    server = Server(Reviewing(out), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server: Server, path: str, body: str | None = None, **headers: str) -> tuple[int, bytes]:
    """Header names are written with _ for -; the right token is given unless ``X_Token`` is."""
    line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given = {"X-Token": server.token, "Content-Type": "application/json"} | given if body is not None else given
    line.request("GET" if body is None else "POST", path, body, given)
    answer = line.getresponse()
    content = answer.read()
    line.close()
    return answer.status, content


def asked(server: Server, path: str, **headers: str) -> tuple[int, bytes]:
    return ask(server, f"{path}?token={server.token}", **headers)


YES = json.dumps({"place": 0, "review": "accept"})


def test_a_decision_is_in_the_manifest_and_in_its_own_file_at_once(out: Path):
    Reviewing(out).decide(Verdict(1, "reject"))
    assert [picture.review for record in read_plain(out) for picture in record.references] == ["", "reject", ""]
    assert read_decisions(out) == {("one", "b.png"): "reject"}
    assert not list(out.glob("*.part"))


def test_a_new_run_of_curation_keeps_what_was_decided(out: Path):
    Reviewing(out).decide(Verdict(0, "accept"))
    write_manifest(out / "manifest.jsonl", RECORDS)
    kept = decided(read_plain(out), read_decisions(out))
    assert [picture.review for picture in kept[0].references] == ["accept", ""]
    assert Reviewing(out).items()[0].review == "accept"


def test_a_decision_holds_for_the_picture_that_was_seen_and_comes_back_with_it(out: Path):
    """Other settings write another picture under the same name."""
    Reviewing(out).decide(Verdict(0, "reject"))
    seen = (out / "a.png").read_bytes()
    Image.new("RGB", (8, 6), "blue").save(out / "a.png")
    assert read_decisions(out) == {}
    Reviewing(out).decide(Verdict(1, "accept"))
    (out / "a.png").write_bytes(seen)
    assert read_decisions(out) == {("one", "a.png"): "reject", ("one", "b.png"): "accept"}


def test_a_key_press_keeps_what_was_written_since_the_page_was_opened(out: Path):
    reviewing = Reviewing(out)
    Reviewing(out).decide(Verdict(1, "reject"))
    write_manifest(out / "manifest.jsonl", [*read_plain(out), Record("three", "videos/3.mp4", "New.")])
    reviewing.decide(Verdict(0, "accept"))
    assert [record.id for record in read_plain(out)] == ["one", "two", "three"]
    assert read_decisions(out) == {("one", "a.png"): "accept", ("one", "b.png"): "reject"}
    assert [picture.review for picture in read_plain(out)[0].references] == ["accept", "reject"]


def test_what_was_undone_stays_undone_after_a_new_run(out: Path):
    reviewing = Reviewing(out)
    reviewing.decide(Verdict(0, "accept"))
    reviewing.decide(Verdict(0, ""))
    assert read_plain(out) == RECORDS
    assert Reviewing(out).items()[0].review == ""


def test_the_manifest_stays_the_same_but_for_the_review(out: Path):
    before = (out / "manifest.jsonl").read_bytes()
    Reviewing(out).decide(Verdict(0, "accept"))
    assert (out / "manifest.jsonl").read_bytes() == before.replace(b'"review": ""', b'"review": "accept"', 1)


def test_a_key_press_on_the_page_is_saved(server: Server, out: Path):
    assert ask(server, "/decide", YES) == (200, b"saved")
    assert read_decisions(out) == {("one", "a.png"): "accept"}


def test_the_page_shows_pairs_and_a_caption_cannot_break_out_of_it(server: Server):
    status, content = asked(server, "/")
    assert status == 200
    assert content.count(b"</script>") == 2
    assert asked(server, "/picture/0")[1].startswith(b"\x89PNG")
    assert asked(server, "/clip/0") == (200, bytes(range(100)))


def test_a_player_gets_the_bytes_it_asks_for(server: Server):
    assert asked(server, "/clip/0", Range="bytes=10-19") == (206, bytes(range(10, 20)))
    assert asked(server, "/clip/0", Range="bytes=95-") == (206, bytes(range(95, 100)))
    for senseless in ("bytes=10-5", "bytes=100-", "bytes=-5", "lines=1-2"):
        assert asked(server, "/clip/0", Range=senseless) == (200, bytes(range(100)))


@pytest.mark.parametrize(
    "path", ["/clip/2", "/picture/2", "/picture/3", "/../secret.mp4", "/manifest.jsonl", "/clip/-1"]
)
def test_nothing_outside_the_output_folder_is_served(server: Server, path: str):
    assert asked(server, path)[0] == 404


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"X_Token": "guess"}]
)
def test_another_page_can_decide_nothing(server: Server, out: Path, headers: dict[str, str]):
    assert ask(server, "/decide", YES, **headers)[0] == 403
    assert not read_decisions(out)


def test_without_the_token_nothing_is_seen(server: Server):
    assert {ask(server, path)[0] for path in ("/", "/clip/0", "/picture/0", "/?token=", "/?token=guess")} == {403}


@pytest.mark.parametrize("body", ["", "{}", "[1]", '{"place": 9, "review": "accept"}', '{"place": 0, "review": "ok"}'])
def test_a_wrong_decision_is_refused_and_changes_nothing(server: Server, out: Path, body: str):
    assert ask(server, "/decide", body)[0] == 400
    assert not read_decisions(out)


def test_a_form_of_another_site_and_a_flood_are_refused(server: Server):
    assert ask(server, "/decide", YES, Content_Type="text/plain")[0] == 400
    assert ask(server, "/decide", YES + " " * 2000)[0] == 413


def test_only_this_machine_is_listened_to(server: Server):
    assert server.server_address[0] == "127.0.0.1"


def test_a_folder_without_a_manifest_says_what_to_do(tmp_path: Path):
    with pytest.raises(DataError, match="Run it first"):
        Reviewing(tmp_path)
