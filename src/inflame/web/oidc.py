"""Signing in through a provider of OpenID Connect: the authorization-code flow with PKCE, state and nonce.

What the flow needs to remember stands, sealed, in a cookie of the browser that began it, so any replica can end it.
The provider's description and its keys are kept for an hour; they are asked for when somebody signs in, so a provider
that is away keeps no site from starting. Authlib and joserfc are loaded where a provider is set.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, final
from urllib.parse import urlsplit

from inflame import plugins
from inflame.errors import UserError
from inflame.web.problems import Problem
from inflame.web.settings import loopback

log = logging.getLogger("inflame.web")

COOKIE = "inflame_openid"  # what the flow needs to remember
_ABOUT = "/.well-known/openid-configuration"
BACK = "/token/back"  # where the provider sends the browser back to
FLOW = 600  # seconds that signing in there may take
_PATIENCE = 5.0  # seconds for what the provider is asked
_PAUSE = 5.0  # and so long it isn't asked again when it was away
_FRESH = 3600.0  # that its description and keys are kept
_ROTATED = 10.0  # so old they are at least when they are asked for again because of a key that isn't among them
_ASKED = 8  # sign-ins at once for which the provider is asked
_LEEWAY = 30  # seconds that its clock may be wrong
_COST = {"n": 2**14, "r": 8, "p": 1}
# Signatures by a key pair alone: by a secret, or by none, whoever knows the secret, or nothing, could sign.
_SIGNATURES = tuple(f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512))
# What people fill in themselves, and what is true of all of them.
_OWN = ("name", "given_name", "family_name", "nickname", "preferred_username", "profile", "picture", "website")
_COMMON = ("iss", "aud", "azp", "email", "email_verified")
_CODE = re.compile(r"[a-z_]{1,64}")  # an error of OAuth


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Who is trusted to say who somebody is, and who of them is the owner of the site.

    `owners`: an e-mail address, that the provider has verified, or `CLAIM:VALUE` (`sub:…`, `groups:…`); `site`: the
    address of this site as browsers know it. Raises UserError.
    """

    issuer: str
    client: str
    secret: str = field(repr=False)
    owners: tuple[str, ...]
    site: str
    scope: str = "openid email"

    def __post_init__(self) -> None:
        for name, address in (("INFLAME_OIDC_ISSUER", self.issuer), ("INFLAME_OIDC_SITE", self.site)):
            if not _safe(address) or set(address) & set("?#@"):
                raise UserError(
                    f'"{address}" is no address that can be trusted.', where=name, remedy=f"export {name}=https://…"
                )
        for owner in self.owners:
            claim, colon, value = owner.partition(":")
            if not (claim and value if colon else "@" in owner) or claim in (*_OWN, *_COMMON):
                raise UserError(
                    f'"{owner}" says of nobody for certain that they are the owner.',
                    where="INFLAME_OIDC_OWNERS",
                    remedy="Name e-mail addresses, or CLAIM:VALUE as sub:… or groups:…, with commas between.",
                )

    @classmethod
    def told(cls, environ: Mapping[str, str], name: str = "") -> Self:
        """That of the variables. `name`: one that the site goes by. Raises UserError, and MissingExtra."""
        needed = ("INFLAME_OIDC_ISSUER", "INFLAME_OIDC_CLIENT", "INFLAME_OIDC_SECRET", "INFLAME_OIDC_OWNERS")
        given = {key: environ.get(key, "").strip() for key in (*needed, "INFLAME_OIDC_SITE")}
        given["INFLAME_OIDC_SITE"] = given["INFLAME_OIDC_SITE"] or (f"https://{name}" if name else "")
        for key, value in given.items():
            if not value:
                raise UserError(
                    "Signing in by OpenID Connect needs this as well.",
                    where=key,
                    remedy=f"export {key}=… (docs/website.md)",
                )
        for module in ("httpx2", "joserfc", "authlib.integrations.httpx_client"):
            plugins.need(module, "oidc", "INFLAME_OIDC_ISSUER")
        issuer, client, secret, owners, site = given.values()
        return cls(
            issuer=issuer,
            client=client,
            secret=secret,
            owners=tuple(one for word in owners.split(",") if (one := word.strip())),
            site=site.rstrip("/"),
            scope=environ.get("INFLAME_OIDC_SCOPE", "") or "openid email",
        )

    def owner(self, claims: Mapping[str, Any]) -> str:
        """The name of whom the claims are about: the e-mail address, where it is verified, else the subject. Empty for
        whoever isn't an owner."""
        said = claims.get("email") if claims.get("email_verified") is True else None
        mail = said if isinstance(said, str) and said.isascii() and said.isprintable() else ""
        for owner in self.owners:
            claim, colon, wanted = owner.partition(":")
            value = claims.get(claim) if colon else None
            if wanted in (value if isinstance(value, list) else [value]) if colon else mail.lower() == owner.lower():
                return mail or "".join(letter for letter in str(claims["sub"]) if letter.isprintable())[:255]
        return ""


@final
class OpenID:
    """The sign-in of one site by its provider. Belongs to the event loop."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self._one, self._turns = asyncio.Lock(), asyncio.Semaphore(_ASKED)
        self._about, self._keys = dict[str, Any](), dict[str, Any]()
        self._asked = self._away = -_FRESH  # when both were told, and when they last were not

    @functools.cached_property
    def key(self) -> bytes:
        """What seals cookies: another with another provider, client, secret or list of owners."""
        who = self.provider
        salt = hashlib.sha256(repr((who.issuer, who.client, who.owners)).encode()).digest()
        return hashlib.scrypt(who.secret.encode(), salt=salt, **_COST)

    async def begin(self, within: str) -> tuple[str, str]:
        """Where to send the browser, and its cookie; it comes back for the page `within`. Raises Problem."""
        from authlib.oauth2.client import OAuth2Client

        about, _ = await self._told()
        state = secrets.token_urlsafe(24)
        body = f"{int(time.time()) + FLOW}.{state}.{base64.urlsafe_b64encode(within.encode()).decode().rstrip('=')}"
        client = OAuth2Client(
            None,
            self.provider.client,
            scope=self.provider.scope,
            redirect_uri=self.provider.site + BACK,
            code_challenge_method="S256",
        )
        where, _ = client.create_authorization_url(
            about["authorization_endpoint"],
            state=state,
            code_verifier=self._made("verifier", state),
            nonce=self._made("nonce", state),
        )
        return where, f"{body}.{self._made('flow', body)}"

    async def end(self, said: Mapping[str, str], cookie: str) -> tuple[str, str]:
        """The name of the owner that came back, and the page that is wanted; the name is empty for somebody else.
        Raises Problem for what can't be believed, and where the provider is away."""
        state, within = self._remembered(cookie)
        if not state or not hmac.compare_digest(state.encode(), said.get("state", "").encode(errors="surrogatepass")):
            strange = "This sign-in was begun elsewhere, or too long ago."
            raise Problem("forbidden", strange, "Begin anew: /token.", reason="foreign")
        if said.get("iss", self.provider.issuer) != self.provider.issuer:
            raise _unbelievable("issuer")
        if "error" in said or not said.get("code"):
            code = said.get("error", "")
            log.warning("openid", extra={"why": code if _CODE.fullmatch(code) else "no code"})
            raise Problem("forbidden", "The provider did not let you in.", "Begin anew: /token.")
        claims = await self._claims(said["code"], state)
        return self.provider.owner(claims), within

    # --- what is believed ----------------------------------------------------------------------------

    async def _claims(self, code: str, state: str) -> Mapping[str, Any]:
        """What the provider says of the person for this code. Raises Problem."""
        from authlib.oidc.core import CodeIDToken
        from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError

        about, keys = await self._told()
        token = await self._exchanged(about, code, state)
        try:
            try:
                found = _opened(token["id_token"], keys)
            except (InvalidKeyIdError, BadSignatureError):  # it may have other keys by now
                if time.monotonic() - self._asked < _ROTATED:
                    raise
                _, keys = await self._told(anew=True)
                found = _opened(token["id_token"], keys)
            claims = CodeIDToken(
                found.claims,
                found.header,
                {"iss": {"value": self.provider.issuer}, "aud": {"value": self.provider.client}},
                {
                    "nonce": self._made("nonce", state),
                    "client_id": self.provider.client,
                    "access_token": token.get("access_token", ""),
                },
            )
            claims.validate(leeway=_LEEWAY)
        except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unbelievable(type(error).__name__) from None
        return dict(claims)

    async def _exchanged(self, about: Mapping[str, Any], code: str, state: str) -> Mapping[str, Any]:
        """The tokens for a code, which is good for once."""
        from authlib.integrations.base_client import OAuthError

        ways = about.get("token_endpoint_auth_methods_supported") or ()
        way = "client_secret_post" if "client_secret_post" in ways else "client_secret_basic"
        try:
            async with self._asking(way) as client:
                token: Mapping[str, Any] = await client.fetch_token(
                    about["token_endpoint"], code=code, code_verifier=self._made("verifier", state)
                )
        except OAuthError as error:
            why = error.error if _CODE.fullmatch(str(error.error)) else "refused"
            if why == "invalid_grant":
                raise _unbelievable(why) from None
            raise _unreachable(why) from None
        return token

    def _made(self, what: str, of: str) -> str:
        """What only this site can make of it: nothing of it has to be remembered."""
        return hmac.digest(self.key, f"{what} {of}".encode(errors="surrogatepass"), "sha256").hex()

    def _remembered(self, cookie: str) -> tuple[str, str]:
        """State and page of a flow that was begun here; empty for any other."""
        body, _, seal = cookie.rpartition(".")
        if not hmac.compare_digest(seal.encode(errors="surrogatepass"), self._made("flow", body).encode()):
            return "", ""
        until, state, within = body.split(".")
        if time.time() >= int(until):
            return "", ""
        return state, base64.urlsafe_b64decode(within + "=" * (-len(within) % 4)).decode()

    # --- what is asked -------------------------------------------------------------------------------

    async def _told(self, *, anew: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
        """The provider's description and its keys, as they were within the hour. Raises Problem."""
        async with self._one:
            now, issuer = time.monotonic(), self.provider.issuer
            if now - self._asked < (_ROTATED if anew else _FRESH):
                return self._about, self._keys
            if now - self._away < _PAUSE:
                raise _unreachable("still")
            try:
                async with self._asking() as client:
                    about = _right(await _fetched(client, f"{issuer.rstrip('/')}{_ABOUT}"), issuer)
                    keys = await _fetched(client, about["jwks_uri"])
            except Problem:
                self._away = time.monotonic()
                raise
            self._about, self._keys, self._asked = about, keys, time.monotonic()
            return about, keys

    @asynccontextmanager
    async def _asking(self, way: str = "") -> AsyncIterator[Any]:
        """A client of the provider, with an end to its patience. Raises Problem where it is away."""
        import httpx2
        from authlib.integrations.httpx_client import AsyncOAuth2Client

        if self._turns.locked():
            raise Problem("busy", "Too many sign in at once.", "Wait a moment.", wait=2.0)
        who = self.provider
        async with self._turns:
            try:
                async with (
                    asyncio.timeout(_PATIENCE),
                    AsyncOAuth2Client(
                        who.client, who.secret, way or None, redirect_uri=who.site + BACK, verify=self._tls
                    ) as client,
                ):
                    yield client
            except (OSError, httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
                raise _unreachable(type(error).__name__) from None

    @functools.cached_property
    def _tls(self) -> Any:
        """Certificates take as long to load as a hundred sign-ins."""
        import httpx2

        return httpx2.create_ssl_context()


def _opened(token: str, keys: dict[str, Any]) -> Any:
    """What is signed by one of the keys. Raises JoseError, ValueError."""
    from joserfc import jwt
    from joserfc.jwk import KeySet
    from joserfc.jws import JWSRegistry

    pairs = [key for key in keys["keys"] if key.get("kty") in ("RSA", "EC") and key.get("use", "sig") == "sig"]
    known = KeySet.import_key_set({"keys": pairs})
    registry = JWSRegistry(algorithms=_SIGNATURES, strict_check_header=False)
    return jwt.decode(token, known, algorithms=_SIGNATURES, registry=registry)


async def _fetched(client: Any, address: str) -> dict[str, Any]:
    reply = await client.request("GET", address, withhold_token=True)
    reply.raise_for_status()
    found = reply.json()
    if not isinstance(found, dict):
        raise ValueError(address)
    return found


def _right(about: dict[str, Any], issuer: str) -> dict[str, Any]:
    """The description, if it is that of the issuer, and leads to where secrets may be sent. Raises ValueError."""
    if about.get("issuer") != issuer:
        raise ValueError("another issuer")
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        if not _safe(about[name]):
            raise ValueError(name)
    return about


def _safe(address: str) -> bool:
    """Whether nobody on the way can listen: https, or this machine."""
    try:
        scheme, host = urlsplit(address).scheme, urlsplit(address).hostname
    except ValueError:
        return False
    return bool(host) and (scheme == "https" or (scheme == "http" and loopback(str(host))))


def _unbelievable(why: str) -> Problem:
    log.warning("openid", extra={"why": why})
    return Problem("forbidden", "What the provider says of you can't be believed.", "Begin anew: /token.")


def _unreachable(why: str) -> Problem:
    log.error("openid", extra={"why": why})
    return Problem(
        "unreachable", "The provider that says who you are doesn't answer.", "Ask again in a moment.", wait=_PAUSE
    )
