"""The HTTP API over a real server: answers, and every problem code that a client can meet."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from inflame.model.engine.bundle import Predictor
from inflame.monitor.log import Log
from inflame.web.problems import CODES, TYPE

Serve = Callable[..., httpx.Client]


def picture(width: int = 64, height: int = 64, form: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(content, form)
    return content.getvalue()


def problem(reply: httpx.Response, code: str) -> dict[str, Any]:
    """The reply is that problem, as RFC 9457 has it."""
    status, title = CODES[code]
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == TYPE
    told = reply.json()
    assert (told["code"], told["status"], told["title"]) == (code, status, title)
    assert told["type"] == f"urn:inflame:problem:{code}"
    assert told["detail"]
    assert told["request_id"] == reply.headers["x-request-id"]
    return told


def test_the_same_bytes_give_the_answers_of_the_predictor(serve: Serve, fruit_bundle: Path, photo_set: Path) -> None:
    client, predictor = serve(), Predictor(fruit_bundle)
    files = sorted(photo_set.rglob("*.jpg"))[::5]
    reply = client.post("/v1/classify", files=[("file", (file.name, file.read_bytes())) for file in files])
    told = reply.json()["results"]
    for file, one, expected in zip(files, told, predictor.predict(files), strict=True):
        assert one["file"] == file.name
        assert one["label"] == expected.label == file.parent.name
        assert one["probability"] == pytest.approx(expected.probability, abs=1e-5)
        assert one["sha256"] == expected.sha256
        assert one["version"] == predictor.version
        assert not one["unlike"]


def test_a_picture_as_the_body_and_top_k(serve: Serve, apple: bytes) -> None:
    client = serve()
    reply = client.post("/v1/classify?top_k=1", content=apple, headers={"Content-Type": "image/jpeg"})
    (one,) = reply.json()["results"]
    assert one["label"] == "apple"
    assert len(one["top"]) == 1
    assert client.get(f"/v1/results/{one['id']}").json()["label"] == "apple"


def test_explanations_show_training_items_first(serve: Serve, apple: bytes) -> None:
    (one,) = serve().post("/v1/classify?explain=true", files={"file": apple}).json()["results"]
    near = one["explanation"]["near"]
    assert near[0]["label"] == "apple"
    assert [item["distance"] for item in near] == sorted(item["distance"] for item in near)
    assert one["explanation"]["heat"].startswith("data:image/jpeg;base64,")


def test_what_was_never_seen_is_said_to_be(serve: Serve) -> None:
    black = io.BytesIO()
    Image.new("RGB", (64, 64), (0, 0, 0)).save(black, "PNG")
    (one,) = serve().post("/v1/classify", files={"file": black.getvalue()}).json()["results"]
    assert one["unlike"]
    assert not one["known"]
    assert one["level"] == "unlike"
    assert one["novelty"]["distance"] > one["novelty"]["limit"] > 0


def test_an_opinion_is_kept_in_the_log_and_taken_back(serve: Serve, apple: bytes) -> None:
    client = serve()
    (one,) = client.post("/v1/classify", files={"file": apple}).json()["results"]
    reply = client.post("/v1/feedback", json={"id": one["id"], "verdict": "wrong", "label": "plum"})
    assert reply.status_code == 201
    log = Log()
    ((entry, said),) = log.verdicts()
    assert (entry.id, entry.input, said.said, said.label) == (one["id"], one["sha256"], "label", "plum")
    assert (entry.kind, entry.source) == ("JPEG", "api")
    facts = log.model(entry.model) or {}
    like = dict(zip(facts["statistics"], entry.seen.tolist(), strict=True))
    assert (like["width"], like["height"]) == (64, 64)
    assert 0 < like["brightness"] < 1
    assert entry.probabilities.sum() == pytest.approx(1, abs=1e-2)
    assert len(entry.embedding) == 64
    assert client.get(f"/v1/results/{one['id']}").json()["feedback"]["label"] == "plum"
    assert client.delete(f"/v1/feedback/{reply.json()['feedback']}").status_code == 204
    assert log.verdicts() == []
    problem(client.delete(f"/v1/feedback/{one['id']}"), "not_found")
    log.close()


def test_an_answer_is_found_again_by_another_server(serve: Serve, apple: bytes) -> None:
    first = serve()
    (one,) = first.post("/v1/classify", files={"file": apple}).json()["results"]
    first.post("/v1/feedback", json={"id": one["id"], "verdict": "right"})
    again = serve().get(f"/v1/results/{one['id']}").json()
    for name in ("label", "level", "known", "unlike", "set", "version", "sha256"):
        assert again[name] == one[name]
    assert again["probability"] == pytest.approx(one["probability"], abs=1e-6)


def test_models_health_and_numbers(serve: Serve, apple: bytes) -> None:
    client = serve()
    client.post("/v1/classify", files={"file": apple})
    (model,) = client.get("/v1/models").json()["models"]
    assert model["classes"] == ["apple", "lime", "plum"]
    assert client.get("/livez").text == "ok"
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["models"] == {"fruit": model["version"]}
    page = client.get("/metrics").text
    assert 'inflame_requests_total{route="/v1/classify",status="200"} 1.0' in page
    assert f'version="{model["version"]}"' in page
    assert "inflame_queue_depth 0.0" in page


def test_ids_of_requests_come_back(serve: Serve) -> None:
    client = serve()
    assert client.get("/livez", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    strange = client.get("/livez", headers={"X-Request-ID": 'a b"<script>'}).headers["x-request-id"]
    assert len(strange) == 16


def test_openapi_describes_every_route_and_problem(serve: Serve) -> None:
    told = serve().get("/openapi.json").json()
    assert told["openapi"].startswith("3.1")
    answers = told["paths"]["/v1/classify"]["post"]["responses"]
    assert set(answers) >= {"200", "400", "403", "404", "408", "413", "415", "422", "429", "503", "504"}
    assert told["components"]["schemas"]["Result"]["example"]["label"] == "monarch"


def test_every_answer_carries_the_headers(serve: Serve) -> None:
    client = serve()
    for path in (
        "/",
        "/about",
        "/docs",
        "/ask",
        "/nothing",
        "/static/site.css",
        "/v1/models",
        "/v1/results/x",
        "/token",
    ):
        heads = client.get(path).headers
        policy = heads["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert heads["x-content-type-options"] == "nosniff"
        assert heads["referrer-policy"] == "same-origin"
        assert "server" not in heads


# --- problems ------------------------------------------------------------------------------------


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", "/v1/classify", {}, "bad_request"),
    ("POST", "/v1/classify", {"data": {"top_k": "3"}}, "bad_request"),
    ("POST", "/v1/classify?top_k=x", {"files": {"file": b"x"}}, "bad_request"),
    ("POST", "/v1/classify", {"content": b"{", "headers": {"Content-Type": "application/json"}}, "bad_request"),
    ("POST", "/v1/classify", {"content": b"--", "headers": {"Content-Type": "multipart/form-data"}}, "bad_request"),
    ("POST", "/v1/feedback", {"content": b"[]"}, "bad_request"),
    ("GET", "/v1/results/../../etc/passwd", {}, "not_found"),
    ("GET", "/v1/results/%2e%2e%2fetc", {}, "not_found"),
    ("POST", "/v1/classify?model=none", {"files": {"file": b"x"}}, "not_found"),
    ("POST", "/v1/feedback", {"json": {"id": "none", "verdict": "right"}}, "not_found"),
    ("GET", "/v1/classify", {}, "method"),
    ("POST", "/v1/classify", {"content": b"x", "headers": {"Content-Type": "application/pdf"}}, "unsupported"),
    ("POST", "/v1/classify", {"files": {"file": b"%PDF-1.4 and so on"}}, "unsupported"),
    ("POST", "/v1/classify", {"files": {"file": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}}, "unsupported"),
    ("POST", "/v1/classify", {"files": {"file": picture(form="BMP")}}, "unsupported"),
    ("POST", "/v1/classify", {"files": {"file": picture(form="TIFF")}}, "unsupported"),
    ("POST", "/v1/classify", {"files": {"file": picture(form="JPEG")[:-200]}}, "unprocessable"),
    ("POST", "/v1/classify", {"files": {"file": b""}}, "unprocessable"),
    ("POST", "/v1/chat", {"json": {"question": "x" * 501}}, "unprocessable"),
    ("POST", "/v1/chat", {"json": {"question": ["a"]}}, "unprocessable"),
    ("POST", "/v1/chat", {"json": {}}, "bad_request"),
    ("POST", "/v1/classify", {"files": {"file": b"x"}, "headers": {"Origin": "http://evil.example"}}, "forbidden"),
    ("POST", "/v1/classify", {"files": {"file": b"x"}, "headers": {"Origin": "null"}}, "forbidden"),
    ("POST", "/feedback", {"data": {"id": "x"}, "headers": {"Sec-Fetch-Site": "cross-site"}}, "forbidden"),
    ("GET", "/", {"headers": {"Host": "evil.example"}}, "forbidden"),
    ("POST", "/v1/models/fruit/rollback", {}, "not_found"),
    ("GET", "/v2/models/none", {}, "not_found"),
    ("POST", "/v2/models/fruit/infer", {"json": {"inputs": []}}, "bad_request"),
]


def test_problems(serve: Serve) -> None:
    client = serve()
    for method, path, given, code in REFUSED:
        problem(client.request(method, path, **given), code)


def test_too_large(serve: Serve) -> None:
    client = serve(bytes=10_000, files=2, pixels=5_000)
    problem(client.post("/v1/classify", files={"file": picture(200, 200)}), "too_large")  # bytes, then pixels
    problem(client.post("/v1/classify", files={"file": picture(80, 80, "JPEG")}), "too_large")
    problem(client.post("/v1/classify", files=[("file", picture(8, 8))] * 3), "too_large")
    problem(client.post("/v1/classify", content=b"x" * 100_000), "too_large")

    def drip() -> Any:
        for _ in range(20):
            yield b"x" * 10_000

    problem(client.post("/v1/classify", content=drip(), headers={"Content-Type": "image/png"}), "too_large")


def test_one_bad_file_among_good_ones_stands_in_its_place(serve: Serve, apple: bytes) -> None:
    reply = serve().post("/v1/classify", files=[("file", ("a", apple)), ("file", ("b", b"no")), ("file", ("c", apple))])
    told = reply.json()["results"]
    assert [one.get("label", one.get("code")) for one in told] == ["apple", "unsupported", "apple"]


def test_a_slow_body_is_ended(serve: Serve) -> None:
    client = serve(body_time=0.3)
    with socket.create_connection((client.base_url.host, client.base_url.port)) as link:
        head = f"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1:{client.base_url.port}\r\nContent-Type: image/png\r\n"
        link.sendall(f"{head}Content-Length: 1000\r\n\r\nabc".encode())
        link.settimeout(5)
        began, got = time.monotonic(), b""
        while piece := link.recv(65_536):
            got += piece
    assert got.startswith(b"HTTP/1.1 408")  # and the connection is closed
    assert b"slow" in got
    assert time.monotonic() - began < 3


def test_half_a_head_is_not_waited_for(serve: Serve) -> None:
    client = serve(head_time=0.5)
    links = [socket.create_connection((client.base_url.host, client.base_url.port)) for _ in range(50)]
    for link in links:
        link.sendall(b"GET / HTTP/1.1\r\nHost: 127")
        link.settimeout(5)
    assert all(link.recv(1) == b"" for link in links)
    for link in links:
        link.close()
    assert client.get("/livez").status_code == 200


def test_busy_says_when_to_come_again(serve: Serve, apple: bytes) -> None:
    client = serve(room=1, workers=1)
    model = client.app.state.service.slots["fruit"].current  # type: ignore[attr-defined]
    answer = model.answer
    model.answer = lambda contents: (time.sleep(0.3), answer(contents))[1]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: client.post("/v1/classify", files={"file": apple}), range(8)))
    codes = {reply.status_code for reply in replies}
    assert codes == {200, 429}
    busy = next(reply for reply in replies if reply.status_code == 429)
    problem(busy, "busy")
    assert int(busy.headers["retry-after"]) >= 1


def test_what_would_be_refused_is_not_taken_apart(serve: Serve, apple: bytes) -> None:
    """Who sends it hears the answer, on a connection that goes on."""
    client = serve(room=0)
    for content in (apple, b"--no form", bytes(2**20), apple):
        heads = {"Content-Type": "multipart/form-data; boundary=x"}
        reply = client.post("/v1/classify", content=content, headers=heads)
        problem(reply, "busy")
        assert "connection" not in reply.headers
    page = client.get("/metrics").text
    assert 'inflame_requests_total{route="/v1/classify",status="429"} 4.0' in page
    assert 'inflame_rejected_total{reason="busy"} 4.0' in page


def test_a_refusal_does_not_wait_for_the_body(serve: Serve) -> None:
    """The answer is there before the body is; that is thrown away, and the next request is heard."""
    client = serve(room=0)
    head = f"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1:{client.base_url.port}\r\nContent-Type: image/png\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as link:
        link.settimeout(5)
        link.sendall(f"{head}Content-Length: 300000\r\n\r\n".encode() + bytes(1000))
        assert link.recv(65_536).startswith(b"HTTP/1.1 429")
        link.sendall(bytes(299_000) + f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:{client.base_url.port}\r\n\r\n".encode())
        assert link.recv(65_536).startswith(b"HTTP/1.1 200")


def test_who_leaves_is_not_answered(serve: Serve, apple: bytes) -> None:
    """Requests of clients that have gone are dropped before they cost, and nothing is said about it."""
    client = serve(workers=1)
    service = client.app.state.service  # type: ignore[attr-defined]
    model, queue = service.slots["fruit"].current, service._queues["fruit"]
    answer, gate, batches = model.answer, threading.Event(), list[int]()

    def held(contents: list[bytes]) -> Any:
        batches.append(len(contents))
        assert gate.wait(20)
        return answer(contents)

    model.answer = held
    head = f"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1:{client.base_url.port}\r\nContent-Type: image/jpeg\r\n"
    links = []
    for number in range(1, 6):
        links.append(socket.create_connection((client.base_url.host, client.base_url.port)))
        links[-1].sendall(f"{head}Content-Length: {len(apple)}\r\n\r\n".encode() + apple)
        assert _within(20, lambda number=number: queue.pending == number and batches == [1])  # type: ignore[misc]
    for link in links[1:]:
        link.close()
    assert _within(20, lambda: sum(ticket.left for ticket in queue._waiting) == 4)
    gate.set()
    assert links[0].recv(15) == b"HTTP/1.1 200 OK"
    links[0].close()
    assert _within(20, lambda: queue.pending == 0)
    assert (queue.dropped, batches) == (4, [1])


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return holds()


def test_late(serve: Serve, apple: bytes) -> None:
    client = serve(deadline=0.2)
    model = client.app.state.service.slots["fruit"].current  # type: ignore[attr-defined]
    answer = model.answer
    model.answer = lambda contents: (time.sleep(0.6), answer(contents))[1]
    problem(client.post("/v1/classify", files={"file": apple}), "late")


def test_draining(serve: Serve, apple: bytes) -> None:
    client = serve()
    service = client.app.state.service  # type: ignore[attr-defined]
    service._queues["fruit"]._draining = True
    problem(client.post("/v1/classify", files={"file": apple}), "draining")


def test_a_mistake_of_ours_tells_nothing(serve: Serve, apple: bytes) -> None:
    client = serve()
    service = client.app.state.service  # type: ignore[attr-defined]

    def broken(*_: Any) -> None:
        raise RuntimeError("the secret is 12345")

    service.store.judged = broken
    (one,) = client.post("/v1/classify", files={"file": apple}).json()["results"]
    told = client.get(f"/v1/results/{one['id']}")
    problem(told, "internal")
    assert "12345" not in told.text


def test_rate_limit_is_for_others_only() -> None:
    from inflame.web.guard import Buckets

    buckets = Buckets(rate=2, burst=3)
    assert [buckets.ask("a", now=0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.ask("b", now=0) == 0
    assert buckets.ask("a", now=0.5) == 0


# --- the owner -----------------------------------------------------------------------------------


def test_only_the_owner_sees_numbers(serve: Serve) -> None:
    client = serve(token="0123456789abcdef-secret")
    problem(client.get("/metrics"), "forbidden")
    problem(client.get("/metrics", headers={"Authorization": "Bearer wrong"}), "forbidden")
    assert client.get("/metrics", headers={"Authorization": "Bearer 0123456789abcdef-secret"}).status_code == 200
    assert client.post("/token", data={"token": "wrong"}).status_code == 403
    signed = client.post("/token", data={"token": "0123456789abcdef-secret"})
    assert signed.status_code == 303
    cookie = signed.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/metrics").status_code == 200


# --- the open inference protocol -----------------------------------------------------------------


def test_a_client_of_triton_gets_the_same(serve: Serve, apple: bytes, fruit_bundle: Path) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="needs tritonclient")
    client = serve()
    expected = Predictor(fruit_bundle).predict([apple])[0]
    with triton.InferenceServerClient(f"127.0.0.1:{client.base_url.port}") as asked:
        assert asked.is_server_live()
        assert asked.is_server_ready()
        assert asked.is_model_ready("fruit")
        about = asked.get_model_metadata("fruit")
        assert [one["name"] for one in about["inputs"]] == ["files", "pictures"]
        for binary in (True, False):
            files = triton.InferInput("pictures", [1, 32, 32, 3], "UINT8")
            files.set_data_from_numpy(Predictor(fruit_bundle).prepare([apple])["pictures"], binary_data=binary)
            wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "labels")]
            found = asked.infer("fruit", [files], outputs=wanted)
            assert found.as_numpy("labels").tolist() in ([b"apple"], ["apple"])
            assert found.as_numpy("probabilities").max() == pytest.approx(expected.probability, abs=1e-5)
        files = triton.InferInput("files", [1], "BYTES")
        files.set_data_from_numpy(np.array([apple], dtype=np.object_))
        assert asked.infer("fruit", [files]).as_numpy("probabilities").max() == pytest.approx(
            expected.probability, abs=1e-5
        )


def test_the_answers_are_json(serve: Serve, apple: bytes) -> None:
    import base64

    tensor = {"name": "files", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(apple).decode()]}
    told = serve().post("/v2/models/fruit/infer", json={"id": "7", "inputs": [tensor]}).json()
    assert told["id"] == "7"
    assert {one["name"] for one in told["outputs"]} == {"probabilities", "labels", "known"}
    assert json.dumps(told)
