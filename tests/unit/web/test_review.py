"""The pages of the owner over a real server: what was sent with consent is named by people; what happened is shown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from inflame.monitor.log import Log

Serve = Callable[..., httpx.Client]
PAGE = {"Accept": "text/html"}
TOKEN = "0123456789abcdef0123"


def sent(client: httpx.Client, content: bytes, *, keep: bool) -> str:
    """The name of an answer to it."""
    told = client.post("/v1/classify", files={"file": content}, data={"keep": "1"} if keep else {}).json()
    client.app.state.service.store.settle()  # type: ignore[attr-defined]
    return str(told["results"][0]["id"])


def named(client: httpx.Client, who: str = "Ann Ö") -> httpx.Client:
    reply = client.post("/review/name", data={"who": who, "model": "fruit"})
    assert reply.status_code == 303
    return client


@pytest.fixture
def site(serve: Serve, tmp_path: Path) -> httpx.Client:
    client = serve(log=str(tmp_path / "log.db"))
    client.headers.update(PAGE)
    return client


def log_of(client: httpx.Client) -> Log:
    return client.app.state.service.store.log  # type: ignore[attr-defined, no-any-return]


def test_only_with_consent_is_anything_kept(site: httpx.Client, apple: bytes, photo_set: Path) -> None:
    lime = (photo_set / "lime" / "lime_10.jpg").read_bytes()
    sent(site, apple, keep=False)
    reply = site.post("/", files={"file": ("a.jpg", lime)}, data={"keep": "1"})
    assert reply.status_code == 200
    site.app.state.service.store.settle()  # type: ignore[attr-defined]
    log = log_of(site)
    assert log.kept(hashlib.sha256(apple).hexdigest()) is None
    assert log.kept(hashlib.sha256(lime).hexdigest()) is not None
    page = named(site).get("/review").text
    assert "1 to look at" in page
    assert "1 more answers would be worth a look" in page


def test_an_example_is_not_kept(site: httpx.Client) -> None:
    assert site.post("/", files={"example": (None, "0")}, data={"keep": "1"}).status_code == 200
    site.app.state.service.store.settle()  # type: ignore[attr-defined]
    assert log_of(site).query("SELECT count(*) FROM kept")[0][0] == 0


def test_a_reviewer_names_a_thing_and_takes_it_back(site: httpx.Client, apple: bytes) -> None:
    answer = sent(site, apple, keep=True)
    first = site.get("/review").text
    assert "Who are you?" in first
    assert "data:image" not in first
    page = named(site).get("/review").text
    assert 'src="data:image/jpeg;base64,' in page
    assert "you are Ann Ö" in page
    assert re.findall(r'name="label" value="(\w+)" data-key="1"', page) == ["apple"]
    for _ in range(2):  # a double click
        assert site.post("/review", data={"answer": answer, "label": "plum", "model": "fruit"}).status_code == 303
    [(_, said)] = log_of(site).verdicts()
    assert (said.who, said.said, said.label) == ("Ann Ö", "label", "plum")
    assert log_of(site).query("SELECT count(*) FROM verdicts")[0][0] == 1
    assert "Nothing more to look at" in site.get("/review").text
    again = site.post("/review/undo", data={"model": "fruit"})
    assert again.headers["location"] == f"/review?model=fruit&answer={answer}"
    assert f'data-answer="{answer}"' in site.get(again.headers["location"]).text
    assert log_of(site).verdicts() == []
    assert site.post("/review/undo", data={"model": "fruit"}).status_code == 404
    site.post("/review/skip", data={"answer": answer, "model": "fruit"})
    assert "Nothing more to look at" in site.get("/review").text


def test_a_reviewer_gives_a_new_name(site: httpx.Client, apple: bytes) -> None:
    answer = sent(site, apple, keep=True)
    reply = named(site).post("/review", data={"answer": answer, "other": "Red <b> fig", "model": "fruit"})
    assert reply.status_code == 303
    [(_, said)] = log_of(site).verdicts()
    assert (said.said, said.label) == ("new", "Red <b> fig")
    page = site.get("/review").text
    assert '<option value="Red &lt;b&gt; fig">' not in page, "there is nothing left to name"
    assert "Red &lt;b&gt; fig (1)" in page
    assert "retrain --new-classes" in page
    site.post("/review/undo", data={"model": "fruit"})
    site.post("/review", data={"answer": answer, "other": "APPLE", "model": "fruit"})
    assert log_of(site).verdicts()[0][1].label == "apple", "a class is known again"


def test_the_owner_reads_another_language(site: httpx.Client, apple: bytes) -> None:
    sent(site, apple, keep=True)
    german = {"Accept-Language": "de"}
    page = named(site).get("/review", headers=german).text
    for words in ("1 anzusehen", "Überspringen", "Etwas anderes, mit Namen", '<html lang="de">'):
        assert words in page
    page = site.get("/monitor", headers=german).text
    for words in ("Zu wenig, um etwas zu sagen", "Antwortzeit", "Noch wurde kein Fenster geprüft", "Überwachung"):
        assert words in page
    assert 'lang="en"' not in page.partition("</main>")[0]


def test_disagreement_is_shown_with_who_said_what(site: httpx.Client, apple: bytes) -> None:
    answer = sent(site, apple, keep=True)
    for who, label in (("ann", "plum"), ("bob", "lime")):
        named(site, who).post("/review", data={"answer": answer, "label": label, "comment": "<b>see</b>"})
    page = site.get("/review").text
    assert "Where you disagree" in page
    assert re.search(r"<b>ann</b>: plum.*<b>bob</b>: lime", page, re.DOTALL)
    assert "&lt;b&gt;see&lt;/b&gt;" in page


@pytest.mark.parametrize(
    ("told", "status", "says"),
    [
        ({"label": "owl"}, 422, "has no class"),
        ({}, 400, "No class was chosen"),
        ({"label": "plum", "answer": "' OR 1=1 --"}, 422, "no such answer"),
        ({"label": "<script>"}, 422, "has no class"),
    ],
)
def test_what_makes_no_sense(site: httpx.Client, apple: bytes, told: dict[str, str], status: int, says: str) -> None:
    answer = sent(site, apple, keep=True)
    reply = named(site).post("/review", data={"answer": answer, **told})
    assert reply.status_code == status
    assert says in reply.text
    assert "<script>" not in reply.text
    assert log_of(site).verdicts() == []


def test_nobody_speaks_without_a_name_or_as_a_visitor(site: httpx.Client, apple: bytes) -> None:
    answer = sent(site, apple, keep=True)
    assert site.post("/review", data={"answer": answer, "label": "plum"}).status_code == 422
    assert site.post("/review/name", data={"who": "visitor"}).status_code == 422
    assert log_of(site).verdicts() == []


@pytest.mark.parametrize("path", ["/review", "/monitor", "/v1/monitor"])
def test_only_the_owner_sees_that(serve: Serve, tmp_path: Path, path: str) -> None:
    client = serve(log=str(tmp_path / "log.db"), token=TOKEN)
    assert client.get(path, headers=PAGE).status_code == 403
    opened = client.get(path, headers={**PAGE, "Authorization": f"Bearer {TOKEN}"})
    assert opened.status_code == 200
    assert client.post("/review", data={"answer": "x", "label": "plum"}).status_code == 403
    assert client.post("/review/undo").status_code == 403


def test_another_site_can_not_make_a_browser_speak(site: httpx.Client, apple: bytes) -> None:
    answer = sent(site, apple, keep=True)
    reply = named(site).post(
        "/review", data={"answer": answer, "label": "plum"}, headers={"Origin": "https://evil.example"}
    )
    assert reply.status_code == 403
    assert log_of(site).verdicts() == []


def test_the_monitor_shows_what_happened(site: httpx.Client, photo_set: Path) -> None:
    files = sorted(photo_set.rglob("*.jpg"))[:12]
    for file in files:
        sent(site, file.read_bytes(), keep=False)
    page = site.get("/monitor")
    assert page.status_code == 200
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "style=" not in page.text
    assert page.text.count('<svg class="chart"') >= 4
    told = site.get("/v1/monitor?days=1").json()
    assert told["answers"] == 12
    assert sum(span["answers"] for span in told["spans"]) == 12
    assert {name for span in told["spans"] for name in span["classes"]} <= {"apple", "lime", "plum"}
    assert told["versions"][0]["answers"] == 12
    assert site.get("/v1/monitor?days=0").status_code == 400
    assert site.get("/v1/monitor?days=%D9%A3").status_code == 400
    assert site.get("/monitor.css").headers["content-type"].startswith("text/css")


def test_a_log_that_is_away_stops_no_answers_and_is_said(serve: Serve, tmp_path: Path, apple: bytes) -> None:
    (tmp_path / "log.db").mkdir()  # no database can be there
    client = named(serve(log=str(tmp_path / "log.db")))
    assert client.post("/v1/classify", files={"file": apple}).status_code == 200
    for path in ("/monitor", "/review", "/v1/monitor"):
        reply = client.get(path, headers=PAGE)
        assert reply.status_code == 503
        assert "The log can" in reply.text
    assert "inflame_accuracy_at_risk 0.0" in client.get("/metrics").text


def test_an_empty_log_is_no_error(site: httpx.Client) -> None:
    page = site.get("/monitor?days=30").text
    assert "Too little to go by" in page
    assert "No answer yet" in page
    metrics = site.get("/metrics").text
    assert "inflame_accuracy_at_risk 0.0" in metrics
    assert "inflame_log_waiting 0.0" in metrics
