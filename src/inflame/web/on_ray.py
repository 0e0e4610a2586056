"""The same site as a deployment of Ray Serve: replicas on the machines of a cluster, behind its own HTTP server.

Each replica is a whole website with the processes of its models; they share nothing but the log, which several machines
need a database for (`--log postgresql://…`), and the folders of the bundles. Ray asks each how it is, begins one that
has died again, and sends requests elsewhere meanwhile. Its server's patience with slow clients has no end: a balancer
in front must have it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import ray
from fastapi import FastAPI
from ray import serve

from inflame import host
from inflame.errors import RunError
from inflame.web.settings import Settings

NAME = "inflame"
_ROOM = 64  # requests that a replica is sent at once: what is more waits for any of them


class _Site:
    """What Ray asks of a replica besides requests."""

    app: FastAPI

    def check_health(self) -> None:
        """Raises where the site isn't ready for long: then Ray begins another."""
        if why := self.app.state.service.unready():
            raise RuntimeError(why)


@final
class Deployment:
    """Replicas of the site of these bundles, running until the block ends. The cluster is that of RAY_ADDRESS, or one
    on this machine that ends with it. Raises RunError."""

    def __init__(self, folders: Mapping[str, Path], settings: Settings, replicas: int) -> None:
        self._folders, self._settings, self._replicas = dict(folders), settings, replicas

    def __enter__(self) -> Self:
        elsewhere = bool(os.environ.get("RAY_ADDRESS"))
        own: dict[str, Any] = {"address": "local", "include_dashboard": False}
        own["num_cpus"] = max(host.cores(), self._replicas)
        ray.init(log_to_driver=False, configure_logging=False, **({} if elsewhere else own))
        try:
            serve.start(http_options={"host": self._settings.host, "port": self._settings.port})
            serve.run(self._application(), name=NAME, route_prefix="/")
        except RuntimeError as error:
            self.__exit__(None, None, None)
            raise RunError(
                f"Ray can't deploy the site: {str(error).splitlines()[0]}",
                where=os.environ.get("RAY_ADDRESS", "this machine"),
                remedy="Each node needs inflame[web,ray] and the folder of the bundle at the same path.",
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        serve.delete(NAME)
        ray.shutdown()

    def _application(self) -> Any:
        folders, settings = self._folders, self._settings

        def build() -> FastAPI:
            from inflame.web import app, memory, server

            server.log_to_stderr()  # of the replica, which Ray keeps
            memory.keep()
            return app.make(folders, settings)

        made: Any = serve.deployment(
            serve.ingress(build)(_Site),
            name=NAME,
            num_replicas=self._replicas,
            max_ongoing_requests=_ROOM,
            graceful_shutdown_timeout_s=settings.drain,
            ray_actor_options={"num_cpus": 1},
        )
        return made.bind()
