"""docs/http.md is what a server says of itself at /openapi.json: what each route takes, gives and may complain of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from inflame.web.app import make
from inflame.web.problems import TYPE
from inflame.web.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "http.md"
JSON = "application/json"

Described = dict[str, Any]


@pytest.fixture
def told(fruit_bundle: Path) -> Described:
    app, owner = make({"fruit": fruit_bundle}, Settings()), ("127.0.0.1", 50_000)  # who is at this machine
    with TestClient(app, base_url="http://127.0.0.1:8000", client=owner) as client:
        found: Described = client.get("/openapi.json").json()
    return found


def test_http_md(told: Described, golden: Callable[[Path, str], None]) -> None:
    parts = [
        "# The HTTP API\n",
        "Written by `make docs` from what a server describes at `/openapi.json`; a test keeps it true. How it is",
        "used, and who may do what: [the website](website.md#the-api).\n",
    ]
    for tag, routes in _by_tag(told).items():
        alike = _problems_of(routes[0][2]) if len({_problems_of(about) for _, _, about in routes}) == 1 else ""
        parts += [f"## Routes: {tag}\n", *([f"Of each: {alike}\n"] if alike else [])]
        parts += [_route(method, path, about, known=alike) for method, path, about in routes]
    parts += [_problems(told), "## Records\n"]
    parts += [_record(name, schema) for name, schema in told["components"]["schemas"].items() if _ours(name)]
    golden(PAGE, "\n".join(parts))


def test_every_route_says_what_it_is_for(told: Described) -> None:
    for method, path, about in _routes(told):
        assert about.get("summary"), (method, path)
        assert about.get("tags"), (method, path)
        assert about.get("description"), (method, path)


def _routes(told: Described) -> Iterator[tuple[str, str, Described]]:
    for path, methods in told["paths"].items():
        for method, about in methods.items():
            yield method.upper(), path, about


def _by_tag(told: Described) -> dict[str, list[tuple[str, str, Described]]]:
    found: dict[str, list[tuple[str, str, Described]]] = {}
    for method, path, about in _routes(told):
        found.setdefault(about["tags"][0], []).append((method, path, about))
    return found


def _ours(name: str) -> bool:
    """Whether a record is one that a client meets: paths take any text, so FastAPI's own complaints never come."""
    return name not in ("HTTPValidationError", "ValidationError")


def _route(method: str, path: str, about: Described, *, known: str) -> str:
    parts = [f"### `{method} {path}`\n", f"{about['summary'].rstrip('.')}. {' '.join(about['description'].split())}\n"]
    body = about.get("requestBody", {}).get("content", {})
    rows = [row for kind, content in body.items() for row in _fields(content["schema"], f"`{kind}`")]
    parts += ["| body | field | takes | is |\n|---|---|---|---|", *rows, ""] if rows else []
    parts += [_example(content["schema"]) for content in body.values() if "example" in content["schema"]]
    given = [_given(status, answer) for status, answer in about["responses"].items() if status < "300"]
    problems = _problems_of(about)
    parts.append(f"Gives {', '.join(given)}. {problems if problems != known else ''}".strip() + "\n")
    return "\n".join(parts)


def _problems_of(about: Described) -> str:
    codes = [f"`{code}`" for _, code, _ in _codes(about)]
    return f"Problems: {', '.join(codes)}." if codes else ""


def _given(status: str, answer: Described) -> str:
    schema = answer.get("content", {}).get(JSON, {}).get("schema", {})
    return f"{status} {_takes(schema)}" if "$ref" in schema else status


def _fields(schema: Described, *before: str) -> list[str]:
    """A row of a table for each field, after the cells `before`; one row where the body is the value itself."""
    cells = {name: (_takes(one), one.get("description", "")) for name, one in schema.get("properties", {}).items()}
    for name in schema.get("required", ()):
        cells[name] = (f"{cells[name][0]}, needed", cells[name][1])
    rows = [[*before, f"`{name}`", *told] for name, told in cells.items()] or [[*before, "", _takes(schema), ""]]
    return [f"| {' | '.join(row)} |" for row in rows]


def _takes(schema: Described) -> str:
    """The type in words: `integer, 1 to 1000, default 5`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_takes(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_takes(schema['items'])}"
    kinds = {"contentMediaType": "file ({})", "enum": "one of {}"}
    words = [kinds[key].format(_plain(schema[key])) for key in kinds if key in schema] or [schema.get("type", "any")]
    if "minimum" in schema and "maximum" in schema:
        words.append(f"{schema['minimum']:g} to {schema['maximum']:g}")
    if schema.get("default", "") != "":
        words.append(f"default {_plain(schema['default'])}")
    return ", ".join(words)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _example(schema: Described) -> str:
    return f"```json\n{json.dumps(schema['example'], indent=2, ensure_ascii=False)}\n```\n"


def _codes(about: Described) -> list[tuple[int, str, str]]:
    """Status, code and title of the problems that a route may answer with."""
    answers = [answer.get("content", {}).get(TYPE, {}) for answer in about["responses"].values()]
    told = {code: one["value"] for answer in answers for code, one in answer.get("examples", {}).items()}
    return sorted((one["status"], code, one["title"]) for code, one in told.items())


def _problems(told: Described) -> str:
    met = sorted({code for _, _, about in _routes(told) for code in _codes(about)})
    rows = [f"| `{code}` | {status} | {title} |" for status, code, title in met]
    head = "## Problems\n\nOf the type `application/problem+json`: a [Trouble](#trouble).\n"
    table = "| code | status | means |\n|---|---|---|"
    return "\n".join([head, table, *rows, ""])


def _record(name: str, schema: Described) -> str:
    rows = _fields({**schema, "required": ()})
    parts = [f"### {name}\n", f"{schema.get('description', '')}\n", "| field | takes | is |\n|---|---|---|", *rows, ""]
    return "\n".join([*parts, *([_example(schema)] if "example" in schema else [])])
