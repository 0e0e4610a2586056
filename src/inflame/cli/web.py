"""The verb serve: a website of one or several models."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from inflame import plugins
from inflame.cli import places
from inflame.cli.predict import bundle_of
from inflame.cli.show import as_json
from inflame.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser
    from inflame.web.oidc import Provider
    from inflame.web.settings import Settings
    from inflame.web.slots import Where
    from inflame.web.trials import Plan


def serve_words(parser: Parser) -> None:
    """The runs, and where to listen."""
    parser.usage = "inflame serve [RUN…] [--port N] [--shadow RUN | --canary RUN=SHARE] [--on ray]"
    parser.description = (
        "A website of your models: pictures or texts in, by drop, paste, camera or file; calibrated answers\n"
        'out, or "I have not seen anything like this", with the nearest training items, heat maps, and a chat\n'
        "about what is on them. With an HTTP API (/docs), health (/livez, /readyz) and numbers (/metrics).\n"
        "Needs no torch; nothing leaves this machine; a new bundle at the same place is taken at once, and so\n"
        "is another champion (inflame promote, inflame rollback) where RUN is the name of one.\n"
        "It listens to this machine only. --host 0.0.0.0 lets others in, as --proxy does, and needs a guard of\n"
        "what only you may see: a token in INFLAME_WEB_TOKEN, --people, or a provider of OpenID Connect in\n"
        "INFLAME_OIDC_ISSUER (docs/website.md). INFLAME_CHAT_URL, _MODEL and _KEY name an endpoint that words\n"
        "the answers of the chat; without it they are quoted facts. Ctrl-C ends it."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame serve\n"
        "  inflame serve auto-butterflies-001 mnist-digits-002 --port 8080\n"
        "  inflame serve photos --canary auto-photos-007=10%\n"
        "  inflame serve photos --on ray --replicas 4 --log postgresql://db.example/log\n"
        "  curl -F file=@photo.jpg http://127.0.0.1:8000/v1/classify\n"
        "  INFLAME_WEB_TOKEN=$(openssl rand -hex 16) inflame serve --host 0.0.0.0 --name flowers.example"
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="runs, their folders or bundles, as NAME=RUN to name them (default: the last)",
    )
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="the port (default: 8000; 0: any free one)")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="the address (default: 127.0.0.1)")
    parser.add_argument("--name", action="append", default=[], metavar="NAME", help="a name that the site goes by")
    parser.add_argument(
        "--log", default="", metavar="FILE|URL", help="the log of answers (default: in the home of inflame)"
    )
    parser.add_argument(
        "--keep-days",
        type=int,
        default=90,
        metavar="N",
        help="how long what visitors let it keep is kept (default: 90)",
    )
    parser.add_argument("--cards", metavar="FOLDER", help="cards of your own, for the chat (docs/website.md)")
    parser.add_argument("--people", metavar="FILE", help="who may sign in as you by name and password (inflame people)")
    parser.add_argument("--shadow", metavar="RUN", help="a model that answers silently beside the first")
    parser.add_argument("--canary", metavar="RUN=SHARE", help="one that answers a share of the clients of the first")
    parser.add_argument("--runtime", default="", metavar="NAME", help="what runs the nets (default: by measurement)")
    parser.add_argument("--on", default="", metavar="ray", help="as replicas of Ray Serve (RAY_ADDRESS: the cluster)")
    parser.add_argument("--replicas", type=int, default=2, metavar="N", help="so many with --on ray (default: 2)")
    parser.add_argument(
        "--proxy", action="store_true", help="believe the X-Forwarded heads of the proxy in front; needs a guard"
    )
    parser.add_argument("--open", action="store_true", help="open a browser")


def serve(words: Namespace) -> int:
    """Serves until Ctrl-C or SIGTERM; what was accepted is still answered."""
    folders = _folders(words.runs)
    from inflame.web.settings import Settings

    settings = Settings(
        host=words.host,
        port=words.port,
        hosts=tuple(words.name),
        token=os.environ.get("INFLAME_WEB_TOKEN", ""),
        people=_people(words.people) if words.people else None,
        oidc=_provider(words.name) if os.environ.get("INFLAME_OIDC_ISSUER") else None,
        log=words.log,
        cards=_cards(words.cards) if words.cards else None,
        proxy=words.proxy,
        runtime=words.runtime,
        keep_days=words.keep_days,
    )
    if words.runtime:
        plugins.demand("runtime", words.runtime)
    from inflame.web import tracing

    tracing.wanted()  # what can't be traced is told before anything has begun
    if words.on:
        return _on_ray(words, folders, settings)
    from inflame.web import memory, slots
    from inflame.web.served import Served

    plan = _plan(words)
    begun = {name: Served(name, slots.place(where), settings) for name, where in folders.items()}  # they load meanwhile
    try:
        server = plugins.need("inflame.web.server", "web", "The website")
        socket = server.listen(settings)
        port = socket.getsockname()[1]
        server.log_to_stderr()
        made = server.server(folders, dataclasses.replace(settings, port=port), begun, plan)
    except BaseException:
        for one in begun.values():
            one.close()
        raise
    address = f"http://{words.host if words.host != '0.0.0.0' else 'localhost'}:{port}/"
    _tell(words, {name: slots.place(where) for name, where in folders.items()}, address)
    if words.open:
        import webbrowser

        webbrowser.open(address)
    memory.keep()
    made.run(sockets=[socket])
    return 0


def _on_ray(words: Namespace, folders: dict[str, Where], settings: Settings) -> int:
    """Replicas on a cluster, until Ctrl-C or SIGTERM."""
    import signal
    import threading

    from inflame.web import slots

    if words.on != "ray":
        raise UserError(f'Nothing serves on "{words.on}".{did_you_mean(words.on, ["ray"])}', remedy="--on ray")
    if words.shadow or words.canary:
        raise UserError("Trials run beside one website only.", where="--shadow, --canary", remedy="Leave --on out.")
    if words.replicas < 1:
        raise UserError("There must be a replica.", where=f"--replicas {words.replicas}", remedy="--replicas 2")
    on_ray = plugins.need("inflame.web.on_ray", "ray", "--on ray")
    with plugins.need("inflame.web.server", "web", "The website").listen(settings) as free:
        settings = dataclasses.replace(settings, port=free.getsockname()[1])
    places = {name: slots.place(where).absolute() for name, where in folders.items()}
    with on_ray.Deployment(places, settings, words.replicas):
        end = threading.Event()
        for which in (signal.SIGINT, signal.SIGTERM):
            signal.signal(which, lambda *_: end.set())
        _tell(words, places, f"http://{words.host if words.host != '0.0.0.0' else 'localhost'}:{settings.port}/")
        end.wait()
    return 0


def _tell(words: Namespace, folders: dict[str, Path], address: str) -> None:
    if words.json:
        models = {name: str(folder) for name, folder in folders.items()}
        print(as_json({"address": address, "models": models}), flush=True)
        return
    for name, folder in folders.items():
        print(f"model  {name}: {folder}")
    print(f"open   {address}\nCtrl-C ends it", flush=True)
    if words.host == "0.0.0.0":
        print("yours  /token is where to sign in; that opens what only you may see", file=sys.stderr)


def _plan(words: Namespace) -> Plan | None:
    """What is tried beside the first model."""
    from inflame.web.trials import Plan

    if words.shadow and words.canary:
        raise UserError(
            "One model at a time is tried.", where="--shadow, --canary", remedy="Give one of the two: first --shadow"
        )
    if words.shadow:
        return Plan(kind="shadow", folder=bundle_of(words.shadow))
    if words.canary:
        run, _, share = words.canary.rpartition("=")
        return Plan(kind="canary", folder=bundle_of(run or share), share=_share(share) if run else 0.1)
    return None


def _share(word: str) -> float:
    try:
        return float(word.removesuffix("%")) / (100 if word.endswith("%") else 1)
    except ValueError:
        raise UserError(f'"{word}" is no share.', where="--canary", remedy="--canary RUN=10%") from None


def _cards(word: str) -> Path:
    from inflame.web import cards

    folder = Path(word).expanduser()
    if not cards.files(folder):
        raise places.nowhere(word, (), "no folder with cards (*.md, *.yaml)")
    cards.library(folder)  # a broken one is told before anything has begun
    return folder.resolve()


def _provider(names: list[str]) -> Provider:
    from inflame.web.oidc import Provider

    return Provider.told(os.environ, names[0] if names else "")


def _people(word: str) -> Path:
    from inflame.web import people

    file = Path(word).expanduser().absolute()
    if not people.read(file):
        raise UserError("Nobody is in it.", where=word, remedy=f"inflame people add NAME --file {word}")
    return file


def _folders(runs: list[str]) -> dict[str, Where]:
    """Name → bundle folder, or for a champion what says which it is now. A model is named by its data set, or as the
    word says."""
    found: dict[str, Where] = {}
    for word in runs or [""]:
        name, equals, run = word.partition("=")
        folder = bundle_of((run if equals else word) or None)
        title = name if equals else _title(folder)
        if title in found:
            raise UserError(
                f'Two models would be called "{title}".', where=word, remedy=f"Name one: inflame serve other={word}"
            )
        champion = _champion(run if equals else word)
        found[title] = functools.partial(bundle_of, champion) if champion else folder
    return found


def _champion(name: str) -> str:
    """The name, where it is that of a champion: the site follows `inflame promote` and `inflame rollback`."""
    from inflame import store

    return name if name and "/" not in name and (store.home() / "models" / name).is_dir() else ""


def _title(folder: Path) -> str:
    import json

    try:
        about = json.loads((folder / "bundle.json").read_bytes())
        return str(about["dataset"]["name"]) or folder.name
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name  # the bundle says itself what is wrong with it
