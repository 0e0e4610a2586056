"""Texts: `inflame train 20newsgroups` from raw files to bundle and report, and BBC News in five folds without copies,
each beside scikit-learn's usual pipeline (TF-IDF and a linear SVM) on the same texts, in alternating runs.

Needs the data sets: `INFLAME_MIRROR`, or a network. `--run` is one measurement, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

FOLDS = 5


def main() -> None:
    """Prints a row for each way: accuracy, wall and CPU seconds (median and range of the rounds)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--run", choices=list(WAYS))
    given = parser.parse_args()
    if given.run:
        print(json.dumps(WAYS[given.run]()))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in given.only}
    with tempfile.TemporaryDirectory() as home:
        where = {**os.environ, "INFLAME_HOME": os.environ.get("INFLAME_HOME", home)}
        for name in ("20newsgroups", "bbc-news"):  # fetched, but not measured
            subprocess.run(
                [sys.executable, "-m", "inflame", "get", name], env=where, stdout=subprocess.DEVNULL, check=True
            )
        for _ in range(given.rounds):
            for name in given.only:
                found[name].append(_timed([sys.executable, "-m", "benchmarks.texts", "--run", name], where))
    print("| what | accuracy | wall s | CPU s |\n|---|---|---|---|")
    for name, rows in found.items():
        cells = " | ".join(_cell([row[key] for row in rows]) for key in ("wall", "cpu"))
        print(f"| {name} | {statistics.mean(row['accuracy'] for row in rows):.4f} | {cells} |")


def _timed(command: list[str], where: dict[str, str]) -> dict[str, float]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=where, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, **json.loads(done.stdout.splitlines()[-1])}


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


# --- 20 Newsgroups, by date ----------------------------------------------------------------------------------


def newsgroups() -> dict[str, float]:
    """The whole command, as a user types it."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "20newsgroups", "--json", f"output={folder}/run"]
        done = subprocess.run([sys.executable, "-m", "inflame", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {"accuracy": json.loads(done.stdout.splitlines()[-1])["test"]["accuracy"]}


def newsgroups_sklearn() -> dict[str, float]:
    """TF-IDF of words, a linear SVM, nothing chosen, calibrated, saved or reported."""
    texts, labels, splits, _ = _read("20newsgroups")
    test = splits == "test"
    return {"accuracy": _sklearn(texts, labels, ~test, test)}


# --- BBC News, five folds ------------------------------------------------------------------------------------


def bbc() -> dict[str, float]:
    """The blend on each fold's other texts, strength and blend chosen inside."""
    from inflame.artifact import texts as words
    from inflame.model.engine import bagging

    texts, labels, _, fold = _read("bbc-news")
    right = 0
    for number in range(FOLDS):
        rest, out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        tokens = [words.words(text) for text in texts]
        learned = words.learn(tokens[row] for row in rest)
        count = words.Vectoriser(learned)
        found = bagging.fit(
            count([tokens[row] for row in rest]),
            labels[rest],
            entries=len(learned.words) + learned.pairs,
            classes=int(labels.max()) + 1,
        )
        x = bagging.weighted(count([tokens[row] for row in out]), found.idf)
        right += int(((x @ found.weight + found.bias).argmax(axis=1) == labels[out]).sum())
    return {"accuracy": right / len(labels)}


def bbc_sklearn() -> dict[str, float]:
    """The same folds with TF-IDF of words and a linear SVM."""
    texts, labels, _, fold = _read("bbc-news")
    shares = [_sklearn(texts, labels, fold != number, fold == number) for number in range(FOLDS)]
    sizes = np.bincount(fold)
    return {"accuracy": float(np.average(shares, weights=sizes))}


WAYS = {
    "20 Newsgroups, inflame: to bundle and report": newsgroups,
    "20 Newsgroups, scikit-learn: to the score": newsgroups_sklearn,
    "BBC News in 5 folds, inflame": bbc,
    "BBC News in 5 folds, scikit-learn": bbc_sklearn,
}


def _read(name: str) -> tuple[list[str], Any, Any, Any]:
    """(texts, labels [N], split of each, fold of each): copies of a text are left out."""
    from inflame import artifact
    from inflame.artifact.contents import Contents
    from inflame.artifact.texts import decode
    from inflame.model.engine import bagging

    data = artifact.open(name)
    source, table = Contents(data.root), data.items
    hashes = np.array(table["sha256"].to_pylist())
    rows = np.sort(np.unique(hashes, return_index=True)[1]) if name == "bbc-news" else np.arange(len(hashes))
    uris, labels, splits = (np.array(table[column].to_pylist())[rows] for column in ("uri", "label", "split"))
    numbers = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    fold = bagging.assigned(numbers, FOLDS, 0, None)
    return [decode(source.read(uri))[0] for uri in uris], numbers, splits, fold


def _sklearn(texts: list[str], labels: Any, train: Any, test: Any) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    body = np.array(texts, dtype=object)
    fitted = make_pipeline(TfidfVectorizer(sublinear_tf=True), LinearSVC(random_state=0)).fit(
        body[train], labels[train]
    )
    return float(fitted.score(body[test], labels[test]))


if __name__ == "__main__":
    main()
