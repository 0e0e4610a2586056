"""ClearML's API server on this machine, with an agent that runs what is queued, one task after the other."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inflame.infra.loopback.machine import Machine
from inflame.infra.loopback.server import Answer, Asked

GRACE = 30.0


class _Task:
    def __init__(self, body: dict[str, Any]) -> None:
        self.machine: Machine | None = None
        self.lines: list[tuple[int, str]] = []
        self.about = {
            **body,
            "id": uuid.uuid4().hex,
            "status": "created",
            "status_reason": "",
            "status_message": "",
            "created": datetime.now(UTC).isoformat(),
        }

    def turn(self, status: str, reason: str = "", message: str = "") -> None:
        self.about |= {"status": status, "status_reason": reason, "status_message": message}


class ClearML:
    """The server and one agent. `folder` holds what the agent runs; `queues` are their names."""

    def __init__(self, folder: Path, *, queues: tuple[str, ...] = ("default",), key: str = "key") -> None:
        self.folder, self.key = folder, key
        self.tasks: dict[str, _Task] = {}
        self.projects: dict[str, str] = {}
        self.queued: list[str] = []
        self._queues = {name: f"queue-{name}" for name in queues}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._agent = threading.Thread(target=self._work, daemon=True)
        self._agent.start()

    def answer(self, asked: Asked) -> Answer:
        """The calls that inflame makes."""
        verb = asked.path.rpartition("/")[2]
        given = asked.headers.get("authorization", "")
        if verb == "auth.login":
            _, _, secret = given.partition(" ")
            if base64.b64decode(secret).decode().partition(":")[0] != self.key:
                return _error(401, 20, "Unauthorized (invalid credentials)")
            return _said({"token": _token()})
        if not given.startswith("Bearer "):
            return _error(401, 20, "Unauthorized (missing credentials)")
        service, _, action = verb.partition(".")
        call = getattr(self, f"_{service}_{action}", None)
        if call is None:
            return _error(400, 0, f"Unknown endpoint {verb}")
        with self._lock:
            found: Answer = call(asked.json())
            return found

    def refuse(self, fault: str) -> Answer:
        """In ClearML's words."""
        if fault == "throttled":
            return _error(429, 0, "Too many requests")
        if fault == "expired":
            return _error(401, 30, "Unauthorized (token expired)")
        return _error(503, 0, "Service temporarily unavailable")

    def lose(self, name: str) -> None:
        """Ends the agent's process without a word, as a power cut does."""
        machine = self.tasks[name].machine
        if machine:
            machine.kill()

    def forget(self, name: str) -> None:
        """Deletes a task behind everybody's back."""
        machine = self.tasks.pop(name).machine
        if machine:
            machine.kill()

    def close(self) -> None:
        """Ends the agent and what it runs."""
        self._end.set()
        for task in list(self.tasks.values()):
            if task.machine:
                task.machine.kill()
                task.machine.wait(10)
        self._agent.join(10)

    # --- the calls -------------------------------------------------------------------------------

    def _tasks_create(self, body: dict[str, Any]) -> Answer:
        task = _Task(body)
        self.tasks[task.about["id"]] = task
        return _said({"id": task.about["id"]})

    def _tasks_get_all(self, body: dict[str, Any]) -> Answer:
        wanted = set(body.get("tags", ()))
        found = [task.about for task in self.tasks.values() if wanted <= set(task.about.get("tags", ()))]
        return _said({"tasks": sorted(found, key=lambda about: str(about["created"]))})

    def _tasks_get_by_id(self, body: dict[str, Any]) -> Answer:
        task = self.tasks.get(body["task"])
        return _said({"task": task.about}) if task else _unknown(body)

    def _tasks_delete(self, body: dict[str, Any]) -> Answer:
        return _said({"deleted": True}) if self.tasks.pop(body["task"], None) else _unknown(body)

    def _tasks_enqueue(self, body: dict[str, Any]) -> Answer:
        task = self.tasks.get(body["task"])
        if task is None:
            return _unknown(body)
        if body["queue"] not in self._queues.values():
            return _error(400, 701, "Invalid queue id")
        if task.about["status"] != "created":
            return _error(400, 110, f"Invalid task status: expected=created, actual={task.about['status']}")
        task.turn("queued")
        self.queued.append(body["task"])
        return _said({"queued": 1})

    def _tasks_dequeue(self, body: dict[str, Any]) -> Answer:
        task = self.tasks.get(body["task"])
        if task is None:
            return _unknown(body)
        if body["task"] in self.queued:
            self.queued.remove(body["task"])
            task.turn("created")
        return _said({"dequeued": 1})

    def _tasks_stop(self, body: dict[str, Any]) -> Answer:
        task = self.tasks.get(body["task"])
        if task is None:
            return _unknown(body)
        if task.machine is None:
            task.turn("stopped", "Stopped by user")
        else:
            task.about["status_message"] = "stopping"
            task.machine.stop(GRACE)
        return _said({"updated": 1})

    def _queues_get_all(self, body: dict[str, Any]) -> Answer:
        return _said({"queues": [{"id": one, "name": name} for name, one in self._queues.items()]})

    def _workers_get_all(self, body: dict[str, Any]) -> Answer:
        return _said({"workers": [{"id": "loopback:0", "queues": [{"id": one} for one in self._queues.values()]}]})

    def _projects_get_all(self, body: dict[str, Any]) -> Answer:
        found = [{"id": one, "name": name} for name, one in self.projects.items() if re.search(body["name"], name)]
        return _said({"projects": found})

    def _projects_create(self, body: dict[str, Any]) -> Answer:
        return _said({"id": self.projects.setdefault(body["name"], uuid.uuid4().hex)})

    def _events_get_task_log(self, body: dict[str, Any]) -> Answer:
        task = self.tasks.get(body["task"])
        if task is None:
            return _unknown(body)
        after = [(when, line) for when, line in task.lines if when > body.get("from_timestamp", 0)]
        events = [{"timestamp": when, "msg": line} for when, line in after[: body.get("batch_size", 500)]]
        return _said({"events": events, "returned": len(events), "total": len(task.lines)})

    # --- the agent -------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._end.wait(0.05):
            with self._lock:
                task = self.tasks.get(self.queued.pop(0)) if self.queued else None
                if task is not None:
                    task.turn("in_progress")
            if task is not None:
                try:
                    self._run(task)
                except Exception as error:  # whatever it is: the agent goes on with the next task
                    task.turn("failed", "agent error", str(error))

    def _run(self, task: _Task) -> None:
        """As an agent without containers: the script of the task, beside nothing else, by Python."""
        folder = self.folder / task.about["id"]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        script = folder / task.about["script"]["entry_point"]
        script.write_text(task.about["script"]["diff"], encoding="utf-8")

        def said(line: str) -> None:
            task.lines.append((time.time_ns(), line))

        words = [sys.executable, "-u", str(script)]
        variables = {"HOME": str(folder), "CLEARML_TASK_ID": task.about["id"]}
        task.machine = Machine(words, variables, {str(folder): folder}, said, grace=GRACE)
        code = task.machine.wait() or 0
        if task.about["status_message"] == "stopping":
            task.turn("stopped", "Stopped by user")
        elif code:
            task.turn("failed", "", f"Process failed, exit code {code}")
        else:
            task.turn("completed")


def _token() -> str:
    """What looks like a JWT, as clients decode it."""
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()
    told = json.dumps({"exp": int(time.time()) + 3600, "api_version": "2.30", "env": "loopback"}).encode()
    return f"{head}.{base64.urlsafe_b64encode(told).rstrip(b'=').decode()}.{base64.urlsafe_b64encode(b'x').decode()}"


def _said(data: dict[str, Any]) -> Answer:
    return Answer(body={"meta": {"result_code": 200, "result_subcode": 0, "result_msg": "OK"}, "data": data})


def _error(status: int, subcode: int, message: str) -> Answer:
    meta = {"result_code": status, "result_subcode": subcode, "result_msg": message}
    return Answer(status=status, body={"meta": meta, "data": {}})


def _unknown(body: dict[str, Any]) -> Answer:
    return _error(400, 101, f"Invalid task id: id={body['task']}")
