"""What a visitor agrees to, over a real server: the page says for how long, and the log knows until when."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from inflame.errors import UserError
from inflame.web.settings import Settings


@pytest.mark.parametrize(("language", "words"), [("en", "kept for 12 days"), ("de", "darf 12 Tage lang")])
def test_the_page_says_for_how_long(
    serve: Callable[..., httpx.Client], apple: bytes, language: str, words: str
) -> None:
    site = serve(keep_days=12)
    assert words in site.get("/", headers={"Accept-Language": language}).text
    found = site.post("/v1/classify", files={"file": apple}, data={"keep": "true"})
    assert found.status_code == 200, found.text
    store = site.app.state.service.store  # type: ignore[attr-defined]
    store.settle()
    ((until,),) = store.log.query("SELECT until FROM kept")
    assert until == pytest.approx(time.time() + 12 * 86_400, abs=300)


def test_no_days_are_refused() -> None:
    with pytest.raises(UserError, match="a day at least"):
        Settings(keep_days=0)
