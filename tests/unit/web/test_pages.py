"""The pages of a visitor over a real server: asking, why, opinions, links, the token, the chat; with and without a
script, and with what no script would send."""

from __future__ import annotations

import base64
import csv
import gzip
import html
import importlib.util
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from inflame.cli.main import main

Serve = Callable[..., httpx.Client]
PART = {"X-Part": "1"}
TOKEN = "0123456789abcdef0123"


@pytest.fixture
def site(serve: Serve) -> httpx.Client:
    client = serve()
    client.headers.update({"Accept": "text/html"})
    return client


def photo(photo_set: Path, name: str, number: int = 10) -> bytes:
    return (photo_set / name / f"{name}_{number:02}.jpg").read_bytes()


def asked(site: httpx.Client, content: bytes) -> str:
    """The name of an answer about it."""
    told = site.post("/v1/classify", files={"file": content}).json()["results"][0]
    site.app.state.service.store.settle()  # type: ignore[attr-defined]
    return str(told["id"])


def test_the_front_page_has_examples_that_can_be_asked_about(site: httpx.Client) -> None:
    front = site.get("/")
    assert front.status_code == 200
    numbers = re.findall(r"/examples/fruit/(\d+)", front.text)
    assert numbers
    picture = site.get(f"/examples/fruit/{numbers[0]}")
    assert picture.headers["content-type"] in ("image/jpeg", "image/png")
    assert picture.content[:2] in (b"\xff\xd8", b"\x89P")
    page = site.post("/", files={"example": (None, numbers[0])})
    assert page.status_code == 200
    assert re.search("apple|lime|plum", page.text)
    for wrong in ("/examples/fruit/99", "/examples/fruit/-1", "/examples/nobody/0"):
        assert site.get(wrong).status_code == 404


def test_without_a_script_the_whole_page_comes_with_the_reason(site: httpx.Client, photo_set: Path) -> None:
    page = site.post("/", files={"file": ("a <b>.jpg", photo(photo_set, "lime"))})
    assert "<html" in page.text
    assert "a <b>.jpg" not in page.text  # escaped
    assert "lime" in page.text
    part = site.post("/", files={"file": ("a.jpg", photo(photo_set, "lime"))}, headers=PART)
    assert "<html" not in part.text
    assert "lime" in part.text


def test_several_are_a_table_that_no_spreadsheet_runs(site: httpx.Client, photo_set: Path) -> None:
    given = {"=1+1.jpg": photo(photo_set, "lime"), "plum.jpg": photo(photo_set, "plum"), "bad.jpg": b"no picture"}
    page = site.post("/", files=[("file", (name, content)) for name, content in given.items()])
    found = re.search(r"data:text/csv;base64,([\w+/=]+)", page.text)
    assert found is not None
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(found[1]).decode())))
    assert [row["file"] for row in rows] == ["'=1+1.jpg", "plum.jpg", "bad.jpg"]
    assert [row["label"] for row in rows] == ["lime", "plum", ""]
    assert rows[2]["problem"]


@pytest.fixture
def black() -> bytes:
    """Nothing like the fruit."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (0, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_what_is_like_nothing_is_nowhere_given_a_share(site: httpx.Client, photo_set: Path, black: bytes) -> None:
    page = site.post("/", files={"file": ("a.png", black)}).text
    assert "if it were one of these" in page
    assert 'data-told="unlike anything seen"' in page
    assert "In nine of ten" not in page
    two = [("file", ("a.png", black)), ("file", ("b.jpg", photo(photo_set, "lime")))]
    rows = re.findall(r'<td class="number">([^<]*)</td></tr>', site.post("/", files=two).text)
    assert rows[0] == "–"
    assert rows[1].endswith(" %")
    part = site.post("/share", data={"id": asked(site, black)}, files={"file": ("a.png", black)})
    link = re.search(r"/r/([\w-]+)", part.text)
    assert link is not None
    shared = site.get(f"/r/{link[1]}").text
    assert shared.count("I have not seen anything like this.") == 2  # as the title and the heading
    assert "If it is one of the kinds I know" in shared


def test_of_what_is_like_nothing_a_visitor_says_which_it_is(site: httpx.Client, black: bytes) -> None:
    page = site.post("/", files={"file": ("a.png", black)}).text
    assert "This is right" not in page  # of what would that be said?
    assert "It is none of these" in page
    (label,) = re.findall(r'<option value="(\w+)" selected>', page)
    log = site.app.state.service.store.log  # type: ignore[attr-defined]

    def said(told: str) -> tuple[str, str]:
        name = asked(site, black)
        assert site.post("/feedback", data={"id": name, "verdict": "wrong", "label": told}).status_code == 200
        (found,) = [verdict for entry, verdict in log.verdicts() if entry.id == name]
        return found.said, found.label

    assert said("other") == ("wrong", "")
    assert said(label) == ("right", label)
    other = next(name for name in ("apple", "lime", "plum") if name != label)
    assert said(other) == ("label", other)


def test_photos_of_iphones_are_asked_for_where_they_can_be_read(site: httpx.Client) -> None:
    assert ("HEIC" in site.get("/").text) == (importlib.util.find_spec("pillow_heif") is not None)


def test_a_page_is_light(site: httpx.Client) -> None:
    """Scripts and styles, as a proxy packs them: at most 60 kB."""
    for path in ("/", "/ask", "/about", "/docs", "/monitor", "/review", "/token"):
        page = site.get(path).text
        asked = set(re.findall(r'(?:src|href)="([^"?]+\.(?:js|css))', page))
        code = "".join(site.get(one).text for one in asked)
        asked |= {f"/static/{one}" for one in re.findall(r'from "\./(\w+\.js)"', code)}
        assert len(asked) >= 1
        assert sum(len(gzip.compress(site.get(one).content)) for one in asked) <= 60_000, path


WRONG: list[tuple[str, dict[str, Any], int]] = [
    ("/", {"data": {"text": ""}}, 400),
    ("/", {"files": {"example": (None, "99")}}, 400),
    ("/", {"files": {"example": (None, "first")}}, 400),
    ("/", {"files": {"file": ("a.jpg", b"no picture")}}, 415),
    ("/explain", {"data": {"label": "lime"}}, 400),
    ("/share", {"data": {"id": "x"}}, 400),
    ("/share", {"data": {"id": "x"}, "files": {"file": ("a.jpg", b"x")}}, 404),
    ("/r/nothing/end", {}, 404),
    (f"/r/{'x' * 65}/end", {}, 404),
    ("/feedback/undo", {"data": {"feedback": "nothing"}}, 404),
    ("/feedback", {"data": {"id": "nothing", "verdict": "right"}}, 404),
]


def test_what_no_page_would_send_gets_a_page_that_says_so(site: httpx.Client) -> None:
    for where, given, status in WRONG:
        page = site.post(where, **given)
        assert page.status_code == status, (where, given, page.text)
        assert "<html" in page.text
        assert "<html" not in site.post(where, headers=PART, **given).text


def test_why_shows_what_it_is_like(site: httpx.Client, photo_set: Path) -> None:
    part = site.post("/explain", files={"file": ("a.jpg", photo(photo_set, "plum"))}, data={"label": "plum"})
    assert part.status_code == 200
    assert "data:image/" in part.text  # the heat map, and training items that are near
    two = [("file", ("a.jpg", photo(photo_set, "plum"))), ("file", ("b.jpg", photo(photo_set, "lime")))]
    assert site.post("/explain", files=two).status_code == 400


def test_an_opinion_is_thanked_for_and_taken_back(site: httpx.Client, photo_set: Path) -> None:
    name = asked(site, photo(photo_set, "apple"))
    told = {"id": name, "verdict": "wrong", "label": "plum", "comment": "I picked it"}
    page = site.post("/feedback", data=told)
    assert page.status_code == 200
    found = re.search(r'name="feedback" value="([^"]+)"', page.text)
    assert found is not None
    assert site.post("/feedback/undo", data={"feedback": found[1]}, headers=PART).status_code == 200
    assert site.post("/feedback/undo", data={"feedback": found[1]}).status_code == 404
    assert "<html" not in site.post("/feedback", data=told, headers=PART).text


def test_a_link_shows_one_answer_until_it_is_ended(site: httpx.Client, photo_set: Path) -> None:
    content = photo(photo_set, "apple")
    name = asked(site, content)
    other = site.post("/share", data={"id": name}, files={"file": ("b.jpg", photo(photo_set, "lime"))})
    assert other.status_code == 422  # another picture than the one that was answered
    part = site.post("/share", data={"id": name}, files={"file": ("a.jpg", content)})
    link = re.search(r"/r/([\w-]+)", part.text)
    assert link is not None
    page = site.get(f"/r/{link[1]}")
    assert page.status_code == 200
    assert "apple" in page.text
    assert "data:image/jpeg" in page.text
    assert site.post(f"/r/{link[1]}/end").status_code == 200
    assert site.get(f"/r/{link[1]}").status_code == 404
    assert site.get(f"/r/{'x' * 65}").status_code == 404


def test_pages_about_the_model_and_the_interface(site: httpx.Client) -> None:
    assert "99.0" in site.get("/about").text  # of the card
    assert "/v1/classify" in site.get("/docs").text
    german = site.get("/about?lang=de")
    assert 'lang="de"' in german.text
    assert 'lang="de"' in site.get("/about").text  # remembered


def test_another_language_asks_for_the_same_page(serve: Serve, fruit_bundle: Path) -> None:
    site = serve({"fruit": fruit_bundle, "a+b": fruit_bundle})
    page = site.get("/about", params={"model": "a+b", "days": "7", "lang": "en"})
    links = re.findall(r'<a href="(\?[^"]*)" hreflang="(\w+)"', page.text)
    assert [code for _, code in links] == ["en", "de"]
    german = site.get(page.url.join(html.unescape(links[1][0])))
    assert dict(german.url.params) == {"model": "a+b", "days": "7", "lang": "de"}
    assert 'lang="de"' in german.text
    assert "a+b" in german.text


def test_the_model_that_was_chosen_stays(serve: Serve, fruit_bundle: Path, photo_set: Path) -> None:
    site = serve({"fruit": fruit_bundle, "a+b": fruit_bundle})
    site.headers["Accept"] = "text/html"

    def links(page: httpx.Response) -> set[str]:
        found = re.findall(r'<a (?:class="(?:name|plain)" )?href="(/[a-z]*(?:\?[^"]*)?)"', page.text)
        return {html.unescape(one) for one in found if not one.startswith(("/v1", "/metrics", "/readyz", "/openapi"))}

    for path in ("/", "/ask", "/about", "/docs", "/monitor", "/review"):
        stay = links(site.get(path, params={"model": "a+b"}))
        assert len(stay) > 5
        assert {one for one in stay if "model=a%2Bb" not in one} <= {"/about?model=fruit"}, path
        assert not any("a%2Bb" in one for one in links(site.get(path))) or path == "/about"
    wrong = site.post("/", params={"model": "a+b"}, data={"text": ""})
    assert "/?model=a%2Bb" in links(wrong)
    assert all("?" not in one for one in links(site.get("/", params={"model": "nobody"})))
    asked = site.post("/", params={"model": "a+b"}, files={"file": ("a.jpg", photo(photo_set, "lime"))})
    assert 'action="/feedback?model=a%2Bb"' in asked.text
    name = re.search(r'data-id="([^"]+)"', asked.text)
    assert name is not None
    site.app.state.service.store.settle()  # type: ignore[attr-defined]
    assert "/about?model=a%2Bb" in links(site.get("/ask", params={"about": name[1]}))
    alone = serve()
    alone.headers["Accept"] = "text/html"
    assert "/ask" in links(alone.get("/", params={"model": "fruit"}))


def test_the_token_opens_what_is_the_owners(serve: Serve) -> None:
    client = serve(token=TOKEN)
    client.headers["Accept"] = "text/html"
    assert client.get("/token").status_code == 200
    assert client.post("/token", data={"token": "guess"}).status_code in (401, 403)
    assert client.post("/token", data={"token": TOKEN}).status_code == 303
    assert client.get("/monitor").status_code == 200


# --- the chat ------------------------------------------------------------------------------------


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)
    return [(name, json.loads(data)) for name, data in found]


def test_a_question_about_an_answer_is_a_stream_and_a_page(site: httpx.Client, photo_set: Path) -> None:
    name = asked(site, photo(photo_set, "apple"))
    asks = {"question": "How accurate is this model?", "about": name}
    stream = site.post("/v1/chat", json=asks)
    told = events(stream.text)
    assert [one for one, _ in told][-2:] == ["by", "done"]
    assert any("99" in data["text"] for one, data in told if one == "sentence")
    page = site.get("/ask", params={"q": asks["question"], "about": name})
    assert page.status_code == 200
    assert "99" in page.text
    assert site.get("/ask").status_code == 200


def test_it_is_what_was_spoken_of(serve: Serve, fruit_bundle: Path, tmp_path: Path) -> None:
    for name in ("apple", "lime"):
        fact = f"## range\n- The {name} lives in gardens. [1]\n## sources\n1. A book | MIT\n"
        (tmp_path / f"{name}.md").write_text(f"# {name}\n{fact}")
    site = serve(cards=tmp_path)
    told = {"question": "Where does it live?"}
    assert "lives in" not in site.post("/v1/chat", json=told).text
    first = site.get("/ask", params={"q": "Where does the lime live?"})
    assert '<input type="hidden" name="topic" value="lime">' in first.text
    assert "The lime lives" in site.post("/v1/chat", json=told | {"topic": "lime"}).text
    assert "The lime lives" in site.get("/ask", params={"q": told["question"], "topic": "lime"}).text
    assert "lives in" not in site.post("/v1/chat", json=told | {"topic": "<b>"}).text
    assert site.post("/v1/chat", json=told | {"topic": 3}).status_code == 422


def test_a_talk_is_about_the_model_that_was_chosen(serve: Serve, fruit_bundle: Path, letters_bundle: Path) -> None:
    site = serve({"fruit": fruit_bundle, "letters": letters_bundle})
    site.headers["Accept"] = "text/html"
    page = site.get("/ask", params={"model": "letters", "q": "Which classes does the model know?"}).text
    assert "money, sport" in page
    assert '<input type="hidden" name="model" value="letters">' in page
    stream = site.post("/v1/chat", json={"question": "Which classes does the model know?", "model": "letters"})
    assert "money, sport" in stream.text
    assert "money, sport" not in site.post("/v1/chat", json={"question": "Which classes does the model know?"}).text
    assert site.post("/v1/chat", json={"question": "How good is it?", "model": "nobody"}).status_code == 404


def test_the_first_word_comes_at_once(site: httpx.Client) -> None:
    def seconds() -> float:
        began = time.perf_counter()
        with site.stream("POST", "/v1/chat", json={"question": "How accurate is this model?"}) as told:
            next(line for line in told.iter_lines() if line.startswith("event: sentence"))
            return time.perf_counter() - began

    assert min(seconds() for _ in range(10)) <= 0.1  # the quickest of ten: the machine may be busy


def test_an_opinion_of_the_chat_is_counted(site: httpx.Client) -> None:
    assert site.post("/v1/chat/feedback", json={"verdict": "good"}).status_code == 201
    assert 'verdict="good"} 1' in site.get("/metrics").text
    assert site.post("/v1/chat/feedback", json={"verdict": "so so"}).status_code == 422
    assert site.post("/v1/chat", json={"question": "  "}).status_code == 400
    assert site.post("/v1/chat", json={"question": 3}).status_code in (400, 422)


# --- the verb ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{bundle}", "{bundle}"], 'Two models would be called "fruit"'),
        (["{bundle}", "--cards", "nowhere"], "no folder with cards"),
        (["{bundle}", "--shadow", "{bundle}", "--canary", "{bundle}=10%"], "One model at a time is tried"),
        (["{bundle}", "--canary", "{bundle}=many"], "is no share"),
        (["{bundle}", "--runtime", "abacus"], "abacus"),
        (["{bundle}", "--on", "rai"], 'Did you mean "ray"'),
        (["{bundle}", "--on", "ray", "--replicas", "0"], "There must be a replica"),
        (["{bundle}", "--on", "ray", "--shadow", "{bundle}"], "Trials run beside one website only"),
    ],
)
def test_what_can_not_be_served_is_refused(
    fruit_bundle: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    given = [word.format(bundle=fruit_bundle) for word in words]
    assert main(["serve", *given, "--port", "0"]) == 2
    assert said in capsys.readouterr().err
