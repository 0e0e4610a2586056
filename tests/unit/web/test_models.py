"""Versions: a new bundle takes over between batches, a broken one changes nothing, the one before is kept."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from inflame import plugins
from inflame.errors import BundleError, UserError
from inflame.model.engine.bundle import amend, verify
from inflame.model.engine.seal import seal
from inflame.web import runtimes
from inflame.web.models import Model
from inflame.web.settings import Settings
from inflame.web.slots import Slot


@pytest.fixture
def folder(fruit_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fruit_bundle, tmp_path / "bundle"))


@pytest.fixture
def slot(folder: Path) -> Iterator[Slot]:
    made = Slot("fruit", folder, Settings())
    yield made
    made.close()


def test_a_new_bundle_takes_over_and_can_be_taken_back(slot: Slot, folder: Path, apple: bytes) -> None:
    first = slot.current.version
    assert not slot.changed()
    amend(folder, {"card.md": b"# another card\n"})
    assert slot.changed()
    assert slot.reload()
    second = slot.current.version
    assert second != first
    assert slot.current.card == "# another card\n"
    assert slot.rollback()
    assert slot.current.version == first
    (answer,) = slot.current.answer([apple])
    assert answer.version == first  # type: ignore[union-attr]


def test_what_says_where_the_bundle_is_now_is_followed(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    amend(other, {"card.md": b"# the next champion\n"})
    now = [folder]
    slot = Slot("fruit", lambda: now[0], Settings())
    assert not slot.changed()
    now[0] = other
    assert slot.changed()
    assert slot.reload()
    assert slot.current.card == "# the next champion\n"
    now[0] = folder  # as `inflame rollback` does
    assert slot.changed()
    assert slot.reload()
    assert slot.current.card != "# the next champion\n"
    now.clear()

    def gone() -> Path:
        raise UserError("No champion any more.", remedy="inflame promote RUN --as fruit")

    slot._where = gone
    assert not slot.changed()
    assert slot.trouble == "No champion any more."
    slot.close()


def test_a_changed_byte_changes_nothing(slot: Slot, folder: Path) -> None:
    first = slot.current
    content = bytearray((folder / "model.onnx").read_bytes())
    content[100] ^= 1
    (folder / "model.onnx").write_bytes(content)
    (folder / "bundle.json").touch()
    assert slot.changed()
    assert not slot.reload()
    assert slot.current is first
    assert "model.onnx" in slot.trouble
    assert not slot.changed()  # it isn't tried again until it changes again
    assert not slot.rollback()
    with pytest.raises(BundleError):
        Model("fruit", folder, Settings())


def test_canaries_notice_a_model_that_answers_otherwise(folder: Path) -> None:
    model = Model("fruit", folder, Settings())
    assert model.alive()
    run = model.predictor.run
    model.predictor.run = lambda inputs: (run(inputs)[0] * 0.3, run(inputs)[1])  # type: ignore[method-assign]
    assert not model.alive()


class _Turned:
    """onnxruntime's session, with all logits turned round."""

    def __init__(self, real: Any) -> None:
        self._real, self.get_outputs = real, real.get_outputs

    def run(self, names: Any, inputs: dict[str, Any]) -> list[Any]:
        logits, *rest = self._real.run(names, inputs)
        return [-logits, *rest]


def a_runtime_that_turns(model: bytes, threads: int) -> Any:
    return _Turned(runtimes.onnxruntime(model, threads))


def test_a_runtime_that_computes_wrongly_answers_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turning = plugins.Plugin(target=f"{__name__}:a_runtime_that_turns")
    monkeypatch.setitem(plugins.SEAMS["runtime"], "turning", turning)
    with pytest.raises(BundleError, match="answers otherwise here than where it was made: its canary 1 is"):
        Model("fruit", folder, Settings(runtime="turning"))


def test_a_bundle_that_answers_otherwise_than_where_it_was_made_changes_nothing(slot: Slot, folder: Path) -> None:
    facts, first = verify(folder), slot.current
    assert [len(one) for one in facts["canaries"]] == [3] * 4
    (likeliest, share), *others = facts["canaries"][2]
    facts["canaries"][2] = [[likeliest, share - 0.2], *others]
    seal(folder, {name: facts[name] for name in facts if name not in ("format", "version", "created", "sha256")})
    assert slot.changed()
    assert not slot.reload()
    assert slot.current is first
    assert "its canary 3" in slot.trouble


def test_swaps_under_load_lose_and_mix_nothing(serve, folder: Path, apple: bytes) -> None:  # type: ignore[no-untyped-def]
    client: httpx.Client = serve({"fruit": folder}, reload=0.05)
    slot = client.app.state.service.slots["fruit"]  # type: ignore[attr-defined]
    seen: set[str] = set()
    wrong: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=client.base_url, trust_env=False, timeout=20) as mine:
            while not stop.is_set():
                reply = mine.post("/v1/classify", files=[("file", apple)] * 3)
                if reply.status_code != 200:
                    wrong.append(reply.text)
                    continue
                versions = {one["version"] for one in reply.json()["results"]}
                seen.update(versions)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    made = {slot.current.version}
    for number in range(5):
        amend(folder, {"card.md": f"# card {number}\n".encode()})
        wanted = json.loads((folder / "bundle.json").read_bytes())["version"][:12]
        end = time.monotonic() + 20
        while slot.current.version != wanted and time.monotonic() < end:
            time.sleep(0.02)
        made.add(slot.current.version)
    for _ in range(20):
        client.post("/v1/models/fruit/rollback")
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(made) == 6
    assert len(seen) > 3
    assert seen <= made
