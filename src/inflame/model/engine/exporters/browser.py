"""A folder for any web server of files: its page classifies pictures in the browser, and sends them nowhere.

onnxruntime-web (MIT licence, 14 MB) lies in the folder, so that the page needs nothing from other hosts. It is fetched
once, checked by its hash and kept in the home of inflame; docs/decisions/0008 says why it isn't part of inflame.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from inflame import plugins, store
from inflame.artifact import fetch, mirror
from inflame.errors import ExportError
from inflame.model.engine.export import Subject, Written
from inflame.model.engine.exporters import onnx as plain
from inflame.records import TextPreprocess, dumps

NAME = "onnxruntime-web"
VERSION = "1.30.0"
RUNTIME = {  # file → its SHA-256: the build for one thread, which asks no special headers of the server
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
PLACES = ("https://cdn.jsdelivr.net/npm/{name}@{version}/dist", "https://unpkg.com/{name}@{version}/dist")
OVERRIDE = "INFLAME_ONNXRUNTIME_WEB"  # a folder or an address that has the files instead
_PAGE = {"browser.html": "index.html", "browser.js": "app.js"}


def write(subject: Subject, place: Path) -> Written:
    """The page, the model as the exporter onnx writes it, and onnxruntime-web."""
    predictor = subject.predictor
    if isinstance(predictor.preprocess, TextPreprocess):
        raise ExportError(
            "The page for browsers is for pictures; this model reads texts.", where="browser", remedy="--to onnx"
        )
    for name in RUNTIME:
        shutil.copyfile(runtime(name), place / name)
    for name, as_name in _PAGE.items():
        shutil.copyfile(Path(__file__).with_name(name), place / as_name)
    plugins.need("onnx", "train", "Writing an ONNX file").save(plain.whole(subject), str(place / plain.FILE))
    about = {
        "title": predictor.info.get("dataset", {}).get("name") or subject.run.name,
        "version": predictor.version,
        "threshold": predictor.calibration.threshold,
    }
    (place / "about.json").write_text(dumps(about), encoding="utf-8")
    return Written(answer=plain.answering(place / plain.FILE), facts={"runtime": f"{NAME} {VERSION}"})


def runtime(name: str) -> Path:
    """A file of onnxruntime-web: from inflame's home, the mirror or a public place. NetworkError when none has it."""
    given = os.environ.get(OVERRIDE, "").strip()
    places = [given] if given else [place.format(name=NAME, version=VERSION) for place in PLACES]
    urls = [store.join(place, name) for place in places]
    remote = fetch.Remote(
        name=f"{NAME} {VERSION}: {name}",
        urls=tuple(urls) if given else (*mirror.urls(NAME, name), *urls),
        sha256=RUNTIME[name],
    )
    return fetch.download(remote, store.home() / "cache" / NAME / VERSION / name)
