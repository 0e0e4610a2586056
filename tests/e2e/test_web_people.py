"""People sign in to the website by their names, in a real browser: with a password, and through another site."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openid_provider
import pytest
from openid_provider import CLIENT, SECRET

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of the browser's driver
PASSWORD = "correct horse of Anna"


@pytest.fixture(scope="module")
def there() -> Iterator[openid_provider.Provider]:
    """At another site, as browsers see it: 127.0.0.2 isn't 127.0.0.1."""
    with openid_provider.running("127.0.0.2") as made:
        made.asks = True
        yield made


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("people") / "people"
    words = [sys.executable, "-m", "inflame", "people", "add", "anna", "--file", str(file)]
    subprocess.run(words, input=PASSWORD, text=True, check=True, timeout=60)
    return file


@pytest.fixture(scope="module")
def site(
    serving: Any,
    fruit_bundle: Path,
    there: openid_provider.Provider,
    people: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {
        "INFLAME_OIDC_ISSUER": there.url,
        "INFLAME_OIDC_CLIENT": CLIENT,
        "INFLAME_OIDC_SECRET": SECRET,
        "INFLAME_OIDC_OWNERS": "anna@example.org",
        "INFLAME_OIDC_SITE": f"http://127.0.0.1:{port}",
        "INFLAME_WEB_TOKEN": "0123456789abcdef-secret",
    }
    folder = tmp_path_factory.mktemp("site")
    with serving(folder, fruit_bundle, "--people", people, "--port", port, **given) as (_, address):
        yield address
    lines = (folder / "server.log").read_text()
    assert '"person": "anna"' in lines
    assert '"person": "anna@example.org"' in lines
    assert not [word for word in (PASSWORD, SECRET, "0123456789abcdef-secret") if word in lines]


@pytest.mark.parametrize("scripts", [True, False])
def test_a_person_signs_in_with_a_password_by_the_keyboard(browse: Callable[..., Any], scripts: bool) -> None:
    from playwright.sync_api import expect

    page = browse("review", java_script_enabled=scripts)
    expect(page.locator("h1")).to_contain_text("Only the owner")
    page.get_by_role("link", name="Sign in").click()
    browse.wrong.clear()  # type: ignore[attr-defined] # the browser reports the 403 that was asked for
    page.get_by_label("Your name").focus()
    page.keyboard.type("anna")
    page.keyboard.press("Tab")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("don't belong together")
    page.get_by_role("link", name="Sign in").click()
    browse.wrong.clear()  # type: ignore[attr-defined]
    page.get_by_label("Your name").fill("anna")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/about$"))
    page.get_by_role("link", name="Review").click()
    expect(page.locator(".lead")).to_contain_text("you are anna")
    page.get_by_role("link", name="anna", exact=True).click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Password")).to_be_visible()
    expect(page.get_by_role("link", name="Review")).to_have_count(0)


@pytest.mark.parametrize("scripts", [True, False])
def test_a_person_signs_in_through_another_site(
    browse: Callable[..., Any], there: openid_provider.Provider, scripts: bool
) -> None:
    from playwright.sync_api import expect

    page = browse("monitor", java_script_enabled=scripts)
    page.get_by_role("link", name="Sign in").click()
    page.get_by_role("link", name="Sign in with 127.0.0.2").click()
    expect(page).to_have_title("Who?")
    page.get_by_role("button", name="Yes").click()
    expect(page).to_have_url(re.compile("/monitor$"))  # the cookie went with it: no other site began that
    expect(page.get_by_role("link", name="anna@example.org")).to_be_visible()
    cookies = {one["name"]: one for one in page.context.cookies()}
    assert set(cookies) == {"inflame_token"}
    assert (cookies["inflame_token"]["sameSite"], cookies["inflame_token"]["httpOnly"]) == ("Strict", True)
    others = [url for url in browse.wrong if url.startswith(there.url)]  # type: ignore[attr-defined]
    assert len(others) == 2
    browse.wrong.clear()  # type: ignore[attr-defined]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_signing_in_is_in_nobodys_way(
    browse: Callable[..., Any], fits: Callable[[Any, str], None], site: str, scheme: str, width: int
) -> None:
    page = browse("token?next=/review", color_scheme=scheme, viewport={"width": width, "height": 900})
    fits(page, "sign-in")
    page.goto(f"{site}token?lang=de")
    fits(page, "sign-in-german")
    page.goto(f"{site}token?lang=en")
    page.get_by_role("link", name="Sign in with").click()
    page.get_by_role("button", name="Yes").click()
    page.get_by_role("link", name="anna@example.org").click()
    fits(page, "signed-in")
    browse.wrong.clear()  # type: ignore[attr-defined] # the other site


def test_without_any_of_it_none_of_it_is_loaded(serving: Any, fruit_bundle: Path, tmp_path: Path) -> None:
    """Neither the library nor the page of names; and the site says where its owner may come from as before."""
    code = "import sys; from inflame.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    words = [sys.executable, "-c", code, "serve", str(fruit_bundle), "--host", "0.0.0.0"]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("INFLAME_OIDC", "INFLAME_WEB"))}
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=given)
    assert "nothing guards what only you may see" in done.stderr
    assert not {"authlib", "joserfc", "httpx2", "inflame.web.oidc", "inflame.web.people"} & set(done.stderr.split())
    with serving(tmp_path, fruit_bundle) as (_, address):
        assert httpx.get(f"{address}metrics", trust_env=False).status_code == 200
        assert httpx.get(f"{address}token/openid", trust_env=False).status_code == 404
