"""The page to sign in on, by the ways that there are: the token, name and password, a provider. And the way out."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from inflame.web import oidc
from inflame.web.api import stranger
from inflame.web.door import AGE, COOKIE, SEEN, TOKEN, Door, Owner
from inflame.web.oidc import OpenID
from inflame.web.pages import page
from inflame.web.problems import Problem
from inflame.web.service import Service

_FORM = 8192  # bytes
_WITHIN = re.compile(r"/(?:\w[\w.~-]*(?:/\w[\w.~-]*)*)?(?:\?[\w.~%&=+-]*)?", re.ASCII)


def routes(service: Service) -> APIRouter:
    """The page, and what it leads to."""
    router, door = APIRouter(include_in_schema=False), service.door
    _page(router, door)
    if door.openid is not None:
        _provider(router, door, door.openid)
    return router


def _page(router: APIRouter, door: Door) -> None:
    @router.get("/token")
    async def token(request: Request) -> Response:
        wanted = request.query_params.get("next", "")
        provider = urlsplit(door.openid.provider.issuer).netloc if door.openid is not None else ""
        return page(request, "token.html", ways=door.ways, provider=provider, within=within(wanted), models=[])

    @router.post("/token")
    async def sign_in(request: Request) -> Response:
        if int(request.headers.get("content-length", _FORM + 1)) > _FORM:
            raise Problem("too_large", "That is too long to sign in by.", "Sign in at /token.")
        async with request.form(max_files=0, max_fields=4) as form:
            told = {key: str(form.get(key, "")) for key in ("name", "password", "token", "next")}
        client, cookie = request.state.client, request.cookies.get(COOKIE, "")
        owner: Owner | None
        if told["name"]:
            owner = await door.lets_in(client, told["name"], told["password"], cookie)
            if owner is None:
                raise Problem("forbidden", "Name and password don't belong together.", "Try again: /token.")
        else:
            owner = TOKEN if door.opens(client, told["token"]) else None
            if owner is None:
                raise stranger()
        answer = RedirectResponse(within(told["next"]), 303)
        return _admitted(request, answer, door, owner, secure=request.url.scheme == "https")

    @router.post("/token/out")
    async def sign_out(request: Request) -> Response:
        if request.state.owner is not None:
            request.state.act = "sign out"
        answer = RedirectResponse("/token", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer


def _provider(router: APIRouter, door: Door, openid: OpenID) -> None:
    secure = openid.provider.site.startswith("https:")

    @router.get("/token/openid")
    async def begin(request: Request) -> Response:
        door.hear(request.state.client)
        where, cookie = await openid.begin(within(request.query_params.get("next", "")))
        answer = RedirectResponse(where, 303)
        answer.set_cookie(  # "lax": the provider's page leads back
            oidc.COOKIE, cookie, httponly=True, samesite="lax", secure=secure, max_age=oidc.FLOW, path=oidc.BACK
        )
        return answer

    @router.get(oidc.BACK)
    async def end(request: Request) -> Response:
        client = request.state.client
        door.hear(client)
        try:
            name, wanted = await openid.end(request.query_params, request.cookies.get(oidc.COOKIE, ""))
            if not name:
                raise Problem("forbidden", "The provider knows you, but you are no owner of this site.", "Ask who is.")
        except Problem as problem:
            if problem.reason == "forbidden":  # and not what another site makes a browser do
                door.wrong(client)
            raise
        request.state.owner = owner = Owner("openid", name)
        # No redirect: that would still be the provider's, and the cookie doesn't go with what another site begins.
        answer = page(request, "signed.html", within=wanted, models=[])
        answer.headers["Refresh"] = f"0;url={wanted}"
        answer.delete_cookie(oidc.COOKIE, httponly=True, samesite="lax", secure=secure, path=oidc.BACK)
        return _admitted(request, answer, door, owner, secure=secure)


def within(address: str) -> str:
    """The address of a page of this site; that of the model for any other."""
    return address if address and _WITHIN.fullmatch(address) else "/about"


def _admitted(request: Request, answer: Response, door: Door, owner: Owner, *, secure: bool) -> Response:
    """The answer, with the cookie that stands for the owner."""
    request.state.owner, request.state.act = owner, "sign in"
    age = SEEN if owner.way == "password" else AGE
    answer.set_cookie(COOKIE, door.cookie(owner), httponly=True, samesite="strict", secure=secure, max_age=age)
    return answer
