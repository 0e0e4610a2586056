"""The lines of code that ask the same model about the same thing again: by curl, in Python, in JavaScript."""

from __future__ import annotations

import json
import shlex
from urllib.parse import quote

Snippets = tuple[tuple[str, str], ...]

_CURL_OF_TEXT = """\
curl {address} --json @- <<'END'
{told}
END"""
_PYTHON = """\
import httpx

{content}
said = httpx.post({address!r}, {body}).json()["results"][0]
print(said["label"], said["probability"])"""
_SCRIPT = """\
// on a page of this site: another may not ask it
{content}
const answer = await fetch({address}, {body});
const [said] = (await answer.json()).results;
console.log(said.label, said.probability);"""


def of_picture(host: str, model: str, name: str, place: str = "") -> Snippets:
    """(language, code) for a file of that name; or for what lies at `place` of this site, which is then fetched."""
    address = _address(host, model)
    if place:
        whence = f"{host}{place}"
        curl = f"curl -s {shlex.quote(whence)} | curl -F file=@- {shlex.quote(address)}"
        python = f"content = httpx.get({whence!r}).content"
        script = f"const content = await (await fetch({_literal(whence)})).blob();"
    else:
        name = name or "photo.jpg"
        curl = f"curl -F {shlex.quote(_form_field(name))} {shlex.quote(address)}"
        python = f'with open({name!r}, "rb") as file:\n    content = file.read()'
        script = 'const [content] = document.querySelector("input[type=file]").files;'
    script += '\nconst form = new FormData();\nform.append("file", content);'
    return _all(address, curl, (python, 'files={"file": content}'), (script, '{ method: "POST", body: form }'))


def of_text(host: str, model: str, text: str) -> Snippets:
    """(language, code) with the text in it."""
    address = _address(host, model)
    curl = _CURL_OF_TEXT.format(address=shlex.quote(address), told=f'{{"texts": [{_literal(text)}]}}')
    body = 'body: JSON.stringify({ texts: [text] }), headers: { "Content-Type": "application/json" }'
    script = (f"const text = {_literal(text)};", f'{{ method: "POST", {body} }}')
    return _all(address, curl, (f"text = {text!r}", 'json={"texts": [text]}'), script)


def _all(address: str, curl: str, python: tuple[str, str], script: tuple[str, str]) -> Snippets:
    return (
        ("curl", curl),
        ("Python", _PYTHON.format(address=address, content=python[0], body=python[1])),
        ("JavaScript", _SCRIPT.format(address=_literal(address), content=script[0], body=script[1])),
    )


def _address(host: str, model: str) -> str:
    return f"{host}/v1/classify?model={quote(model, safe='')}"


def _form_field(name: str) -> str:
    """As `curl -F` takes a file, whatever its name: it reads some signs, and `-` as its input."""
    path = f"./{name}" if name.startswith("-") else name
    quoted = path.replace("\\", "\\\\").replace('"', '\\"')
    return f"file=@{path}" if path.replace(".", "").replace("_", "").isalnum() else f'file=@"{quoted}"'


def _literal(text: str) -> str:
    """As JSON and JavaScript write it; what can't be seen, or turns the line around, as its number."""
    plain = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in plain)
