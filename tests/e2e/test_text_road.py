"""The text road: a folder of letters, a table or a named set to a bundle that answers without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inflame.model.engine import nets
from inflame.model.engine.bundle import Predictor
from inflame.records import TextPreprocess

TOPICS = {"money": "bank share profit market loan", "sport": "match goal team coach win"}


def inflame(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inflame", *words], input=given, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of texts, and what `inflame train` said about it with no word more."""
    root = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    for name, own in TOPICS.items():
        (root / "letters" / name).mkdir(parents=True)
        for number in range(40):
            chosen = rng.choice([*own.split(), "the", "day", "people", f"w{number}"], 30)
            (root / "letters" / name / f"{number}.txt").write_text(" ".join(chosen))
    (root / "letters" / "money" / "old.txt").write_bytes("bank loan profit £ naïve market share".encode("cp1252"))
    done = inflame("train", str(root / "letters"), "--json", f"output={root / 'run'}")
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout.splitlines()[-1])


def test_a_folder_of_texts_trains_with_no_word_more(trained: tuple[Path, dict[str, Any]]) -> None:
    root, found = trained
    assert found["test"]["accuracy"] == 1.0
    status = json.loads((root / "run" / "status.json").read_text())
    assert [rung["name"] for rung in status["ladder"]] == ["majority", "words"]
    told = json.loads((root / "run" / "words.json").read_text())
    assert set(told["sport"][:5]) == set(TOPICS["sport"].split())


def test_a_table_of_texts_by_its_own_word(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = ["text,label"]
    for name, own in TOPICS.items():
        rows += [f"{' '.join(rng.choice([*own.split(), 'the', f'w{n}'], 12))},{name}" for n in range(30)]
    (tmp_path / "letters.csv").write_text("\n".join(rows))
    done = subprocess.run(
        [sys.executable, "-m", "inflame", "train", "auto", "text=letters.csv", "--json", "--explain"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"choice": "road", "taken": "texts", "why": "the items are texts"} in found["why"]
    assert found["test"]["accuracy"] > 0.8
    gone = inflame("train", "auto", "text=nowhere.csv")
    assert gone.returncode == 2
    assert "nowhere.csv" in gone.stderr


def test_the_report_shows_texts_and_telling_words(trained: tuple[Path, dict[str, Any]]) -> None:
    page = (trained[0] / "run" / "report.html").read_text()
    assert "Words that speak for each class" in page
    assert "inflame predict letter.txt" in page
    assert "picture not found" not in page
    card = (trained[0] / "run" / "bundle" / "card.md").read_text()
    assert "a text classifier" in card


def test_the_bundle_answers_like_the_net_it_holds(trained: tuple[Path, dict[str, Any]]) -> None:
    from safetensors.torch import load_file

    bundle = trained[0] / "run" / "bundle"
    predictor = Predictor(bundle)
    assert isinstance(predictor.preprocess, TextPreprocess)
    net = nets.build(
        {"kind": "bag", "entries": len(predictor.preprocess.words) + predictor.preprocess.pairs, "classes": 2}
    )
    net.load_state_dict(load_file(bundle / "model.safetensors"))
    from inflame.artifact import texts

    inputs = texts.Vectoriser(predictor.preprocess)([["bank", "loan"], ["goal"], [], ["unheard"]]).padded()
    with torch.inference_mode():
        expected = net.eval()(*(torch.from_numpy(value) for value in inputs.values())).numpy()
    assert np.abs(predictor.run(inputs)[0] - expected).max() < 1e-4


def test_answers_one_by_one_are_those_of_a_batch(trained: tuple[Path, dict[str, Any]]) -> None:
    predictor = Predictor(trained[0] / "run" / "bundle")
    told = [b"bank loan", b"goal goal team win coach", b"the people", "größe bank".encode("utf-16")]
    together = predictor.predict(told)
    for text, answer in zip(told, together, strict=True):
        (alone,) = predictor.predict([text])
        assert (alone.label, alone.set) == (answer.label, answer.set)
        assert alone.probability == pytest.approx(answer.probability, abs=1e-5)
    assert [answer.label for answer in together[:2]] == ["money", "sport"]


def test_of_unheard_words_nothing_is_known(trained: tuple[Path, dict[str, Any]]) -> None:
    (answer,) = Predictor(trained[0] / "run" / "bundle").predict([b"zzz qqq"])
    assert not answer.known
    assert set(answer.set) == set(TOPICS)


def test_predict_takes_files_folders_words_and_lines(trained: tuple[Path, dict[str, Any]], photos: Path) -> None:
    root, model = trained[0], f"--model={trained[0] / 'run'}"
    done = inflame("predict", str(root / "letters" / "money"), "--text", "the goal", model, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["label"] for row in rows] == ["money"] * 41 + ["sport"]
    done = inflame("predict", "-", model, "--json", given="bank loan\n\ngoal team\n")
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == ["money", "sport"]
    picture = next(photos.rglob("*.jpg"))
    done = inflame("predict", str(picture), "--text", "  ", model)
    assert done.returncode == 1
    assert "no text, and the model reads texts" in done.stderr
    assert "has no words" in done.stderr
    assert done.stdout == ""


def test_texts_in_a_table(tmp_path: Path) -> None:
    rows = [{"text": f"{TOPICS[name]} w{n}", "label": name} for n in range(20) for name in TOPICS]
    (tmp_path / "news.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = inflame("train", "news_text", f"io.training_input={tmp_path / 'news.jsonl'}", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["test"]["accuracy"] == 1.0


def test_pictures_are_refused_by_the_model_of_texts(photos: Path) -> None:
    done = inflame("train", "news_text", f"io.training_input={photos}")
    assert done.returncode == 2
    assert "holds pictures, not texts" in done.stderr


def test_texts_without_words_are_refused(tmp_path: Path) -> None:
    rows = [{"text": f"{a} {b}", "label": a} for a in "xy" for b in "abcdefghij"]
    (tmp_path / "signs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = inflame("train", str(tmp_path / "signs.jsonl"))
    assert done.returncode == 2
    assert "no run of two letters" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "reach"), [("20newsgroups", 0.865), ("bbc-news", 0.95)])
def test_whole_sets(mirror: Path, name: str, reach: float) -> None:
    done = inflame("train", name, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["test"]["accuracy"] >= reach
