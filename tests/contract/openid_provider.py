"""A small provider of OpenID Connect on this machine, with real keys: what it says can be made wrong in every way."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

CLIENT, SECRET = "inflame-of-the-tests", "a-secret-that-only-two-know"
ANNA = {"sub": "4711", "email": "anna@example.org", "email_verified": True}


@final
class Provider:
    """`person` signs in at once, or with `asks` by a click on a page. `claims` stand instead of the right ones (None:
    are left out); `alg` signs, with `key`; `status`: of every answer; `gate`: every answer waits for it; `issuer`: what
    it calls itself. `codes` were given out, `seen` are the words of requests for tokens."""

    def __init__(self, url: str) -> None:
        self.url = self.issuer = url
        self.person: dict[str, Any] = dict(ANNA)
        self.claims: dict[str, Any] = {}
        self.alg, self.status, self.asks = "RS256", 200, False
        self.gate = threading.Event()
        self.gate.set()
        self.basic = True
        self.codes: dict[str, dict[str, str]] = {}
        self.seen: list[dict[str, str]] = []
        self.key = self.published = RSAKey.generate_key(2048, parameters={"kid": "first"})

    def answer(self, path: str, asked: dict[str, str], head: str) -> tuple[int, dict[str, str], str]:
        """Status, heads and body."""
        self.gate.wait(20)
        if path == "/.well-known/openid-configuration":
            return self._json(self._about())
        if path == "/keys":
            return self._json({"keys": [{**self.published.as_dict(private=False), "use": "sig"}]})
        if path == "/authorize" and self.asks and "yes" not in asked:
            fields = "".join(f'<input type="hidden" name="{k}" value="{html.escape(v)}">' for k, v in asked.items())
            button = '<button name="yes" value="1">Yes, I am Anna</button>'
            text = (
                f'<!doctype html><html lang="en"><title>Who?</title><h1>Who?</h1><form>{fields}{button}</form></html>'
            )
            return 200, {"Content-Type": "text/html"}, text
        if path == "/authorize":
            return 302, {"Location": self._back(asked)}, ""
        return self._token(asked, head)

    def rotate(self) -> None:
        """Signs with another key from now on, as its keys say."""
        self.key = self.published = RSAKey.generate_key(2048, parameters={"kid": "second"})

    def _about(self) -> dict[str, Any]:
        ends = {f"{name}_endpoint": f"{self.url}/{name.partition('_')[0]}" for name in ("token",)}
        way = "client_secret_basic" if self.basic else "client_secret_post"
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.url}/authorize",
            **ends,
            "jwks_uri": f"{self.url}/keys",
            "token_endpoint_auth_methods_supported": [way],
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],  # it may say what it likes
        }

    def _back(self, asked: dict[str, str]) -> str:
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state'], 'iss': self.issuer})}"

    def _token(self, asked: dict[str, str], head: str) -> tuple[int, dict[str, str], str]:
        self.seen.append(asked)
        if self.basic:
            name, _, secret = base64.b64decode(head.removeprefix("Basic ")).decode().partition(":")
        else:
            name, secret = asked.get("client_id", ""), asked.get("client_secret", "")
        if (name, secret) != (CLIENT, SECRET):
            return self._json({"error": "invalid_client"}, 401)
        flow = self.codes.pop(asked.get("code", ""), None)
        made = hashlib.sha256(asked.get("code_verifier", "").encode()).digest()
        right = flow and base64.urlsafe_b64encode(made).decode().rstrip("=") == flow["code_challenge"]
        if not flow or not right or asked["redirect_uri"] != flow["redirect_uri"]:
            return self._json({"error": "invalid_grant", "error_description": "secret words"}, 400)
        return self._json({"access_token": "an access", "token_type": "Bearer", "id_token": self._signed(flow)})

    def _signed(self, flow: dict[str, str]) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": flow["nonce"]}
        claims |= {**self.person, **self.claims}
        body = json.dumps({name: value for name, value in claims.items() if value is not None}).encode()
        head = {"alg": self.alg, "kid": str(self.key.kid)}
        if self.alg == "none":
            parts = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (json.dumps(head).encode(), body))
            return f"{'.'.join(parts)}."
        key = OctKey.import_key(SECRET) if self.alg == "HS256" else self.key
        return jws.serialize_compact(head, body, key, algorithms=[self.alg])

    def _json(self, told: dict[str, Any], status: int = 0) -> tuple[int, dict[str, str], str]:
        return status or self.status, {"Content-Type": "application/json"}, json.dumps(told)


def other_key(kind: str = "RSA") -> RSAKey | ECKey:
    """Somebody else's, under the name of the first."""
    if kind == "EC":
        return ECKey.generate_key("P-256", parameters={"kid": "first"})
    return RSAKey.generate_key(2048, parameters={"kid": "first"})


@contextmanager
def running(host: str = "127.0.0.1") -> Iterator[Provider]:
    """A provider, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            where = urlsplit(self.path)
            self._reply(where.path, dict(parse_qsl(where.query)))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._reply(self.path, dict(parse_qsl(body)))

        def _reply(self, path: str, asked: dict[str, str]) -> None:
            status, heads, text = made.answer(path, asked, unquote(self.headers.get("Authorization", "")))
            self.send_response(status)
            for name, value in heads.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # who asked has gone

    with Server((host, 0), Handler) as server:
        made = Provider(f"http://{host}:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.gate.set()
        server.shutdown()
        thread.join()
