"""Secrets in code that is about to leave this machine: refused by their names and by what is in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import PurePosixPath

from inflame import store
from inflame.errors import DataError
from inflame.infra.pack.entry import Entry

LARGEST = 2**20  # bytes of a file that is looked into
_NAMES = frozenset(
    ".env .env.* *.pem *.key *.p12 *.pfx *.jks *.keystore id_rsa id_dsa id_ecdsa id_ed25519 .netrc _netrc .pgpass "
    ".htpasswd .npmrc .pypirc *.kdbx .git-credentials credentials credentials.json service-account*.json "
    "service_account*.json secrets.toml secrets.y*ml secrets.json kubeconfig clearml.conf kaggle.json".split()
)
_HARMLESS = (".env.example", ".env.sample", ".env.template", ".env.dist")

# A plain word first: looking for it costs next to nothing, and only where it is found the pattern is tried.
_INSIDE = (
    ("a private key", b"PRIVATE KEY", rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s*\n[A-Za-z0-9+/=\s]{40}"),
    ("an access key of AWS", b"AKIA", rb"(?<![A-Z0-9])AKIA[A-Z2-7]{16}(?<!EXAMPLE)(?![A-Z0-9])"),
    ("a secret key of AWS", b"aws_secret_access_key", rb"aws_secret_access_key['\"]?\s*[:=]\s*['\"]?[A-Za-z0-9/+]{40}"),
    ("a key of a Google service account", b'"private_key_id"', rb'"private_key_id"\s*:\s*"[0-9a-f]{40}"'),
    ("an API key of Google", b"AIza", rb"(?<![\w-])AIza[\w-]{35}(?![\w-])"),
    ("a key of an Azure storage account", b"AccountKey=", rb"AccountKey=[A-Za-z0-9+/]{86}=="),
    ("a token of GitHub", b"gh", rb"(?<!\w)gh[pousr]_[A-Za-z0-9]{36}(?!\w)"),
    ("a token of GitHub", b"github_pat_", rb"github_pat_\w{60}"),
    ("a token of Hugging Face", b"hf_", rb"(?<!\w)hf_[A-Za-z]{34}(?!\w)"),
    ("a token of Slack", b"xox", rb"xox[abprs]-\d{9,}-[\w-]{20}"),
    ("a key of OpenAI or Anthropic", b"sk-", rb"(?<![\w-])sk-(?:proj-|ant-)?[\w-]{40}"),
    ("a token of PyPI", b"pypi-", rb"pypi-AgE[\w-]{50}"),
)
_PATTERNS = tuple((kind, word, re.compile(pattern)) for kind, word, pattern in _INSIDE)


def demand_none_by_name(paths: Iterable[str]) -> None:
    """DataError that names the files whose names say that they hold a secret."""
    found = [path for path in paths if _named(PurePosixPath(path).name.lower())]
    if found:
        _refuse(dict.fromkeys(found, "its name says so"))


def demand_none_inside(entries: Iterable[Entry], read: Callable[[list[Entry]], Iterator[tuple[Entry, bytes]]]) -> None:
    """DataError that names the files with a secret in them. What was looked at once is remembered by its content."""
    seen_file = store.home() / "cache" / "code" / "clean"
    seen = set(seen_file.read_text().split()) if seen_file.is_file() else set()
    wanted = [entry for entry in entries if entry.blob not in seen and 16 < entry.size <= LARGEST]
    found = {entry.path: kind for entry, content in read(wanted) if (kind := inside(content))}
    if found:
        _refuse(found)
    if wanted:
        store.make_folder(seen_file.parent)
        with seen_file.open("a") as file:
            file.write("".join(f"{entry.blob}\n" for entry in wanted))


def inside(content: bytes) -> str:
    """What secret is in it; empty when none is."""
    for kind, word, pattern in _PATTERNS:
        if word in content and pattern.search(content):
            return kind
    return ""


def _named(name: str) -> bool:
    return name not in _HARMLESS and any(fnmatch(name, pattern) for pattern in _NAMES)


def _refuse(found: dict[str, str]) -> None:
    raise DataError(
        "These files hold secrets, and would leave this machine: "
        + ", ".join(f"{path} ({why})" for path, why in list(found.items())[:10]),
        where=next(iter(found)),
        remedy="Move them out of the folder, or leave them out by a line each in .gitignore, or in .inflameignore "
        "where git has them. A job gets the values of variables by their names: --env NAME.",
    )
