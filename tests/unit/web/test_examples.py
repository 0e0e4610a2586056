"""What a visitor can try: held-out items of different classes, texts with their beginning, nothing too large."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from inflame import artifact
from inflame.artifact import manifest
from inflame.errors import UserError
from inflame.web import examples
from inflame.web.settings import Settings


def test_pictures_are_test_items_of_every_class_first(photos: Path, tmp_path: Path) -> None:
    dataset = artifact.open(photos, splits={"train": 0.5, "test": 0.5})
    run = tmp_path / "run"
    run.mkdir()
    manifest.save(dataset, run)
    huge = dataset.split("test").items["uri"].to_pylist()[0]
    (photos / huge).write_bytes((photos / huge).read_bytes() + b"\0" * 5 * 2**20)
    found = examples.held_out(run, text=False)
    assert [one.name for one in found] == [f"example {n}" for n in range(1, 9)]
    held = {(photos / uri).read_bytes(): uri for uri in dataset.split("test").items["uri"].to_pylist()}
    shown = [held[one.content] for one in found]  # small ones are shown as they are
    assert huge not in shown
    assert max(Counter(uri.partition("/")[0] for uri in shown).values()) <= 4
    assert len({uri.partition("/")[0] for uri in shown[:3]}) >= 2


def test_texts_show_their_beginning(tmp_path: Path) -> None:
    for label in ("garden", "ships"):
        (tmp_path / "letters" / label).mkdir(parents=True)
        for number in range(12):
            (tmp_path / f"letters/{label}/{number}.txt").write_text(
                f"About {label},\n\n  letter {number}. " + "x " * 200
            )
    run = tmp_path / "run"
    run.mkdir()
    manifest.save(artifact.open(tmp_path / "letters", splits={"train": 0.5, "test": 0.5}), run)
    found = examples.held_out(run, text=True, most=3)
    assert len(found) == 3
    assert found[0].snippet.startswith("About ")
    assert "letter" in found[0].snippet
    assert len(found[0].snippet) <= 160


def test_a_large_picture_is_shown_small() -> None:
    file = io.BytesIO()
    Image.effect_noise((900, 600), 90).convert("RGB").save(file, "JPEG", quality=95)
    one = examples._example(3, file.getvalue(), text=False)
    assert max(Image.open(io.BytesIO(one.content)).size) == 512
    broken = b"\xff" + b"no picture" * 3000
    assert examples._example(3, broken, text=False).content == broken


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"host": "0.0.0.0"}, "INFLAME_WEB_TOKEN"),
        ({"host": "example.org"}, "can be reached by others"),
        ({"token": "short"}, "has 5 letters"),
        ({"port": 70_000}, "--port 8000"),
    ],
)
def test_a_site_that_would_stand_open_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as told:
        Settings(**given)
    assert says in told.value.explain()


def test_only_the_token_itself_opens() -> None:
    made = Settings(host="0.0.0.0", token="ä" * 20)
    assert made.opens("ä" * 20)
    assert not made.opens("a" * 20)
    assert not Settings().opens("")
    assert [Settings(host=host).local for host in ("127.0.0.2", "[::1]", "localhost")] == [True] * 3
