"""What a job needs of Azure, looked at one by one, and the least rights that it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from inflame.infra import machines, places
from inflame.infra.launcher import NOT_OK, OK, Finding
from inflame.infra.places.azureml_api import NAME, PROVIDER, REMEDIES, SETTINGS, VERSION, Workspace
from inflame.infra.places.rest import Absent
from inflame.records import JobSpec

_VERBS = (
    *("read", "jobs/read", "jobs/write", "jobs/cancel/action", "environments/read", "environments/versions/read"),
    *("environments/versions/write", "computes/read", "computes/write", "experiments/runs/read", "quotas/read"),
)


def look(workspace: Workspace, spec: JobSpec) -> list[Finding]:
    """Settings and credentials, then workspace, quota and storage."""
    return places.looked(
        lambda: places.demand(NAME, workspace.settings, SETTINGS),
        lambda: workspace.rest.login(),  # noqa: PLW0108 - late: its package may be missing
        {
            "workspace and rights": lambda: _seen(workspace),
            "quota": lambda: _quota(workspace, spec),
            "output": lambda: places.writable(spec.output, REMEDIES["rights"]),
        },
        {"image": "Whether the image exists shows when the job starts: try   docker manifest inspect IMAGE"},
    )


def rights(settings: Mapping[str, str], spec: JobSpec) -> dict[str, Any]:
    """A role of your own for who sends the job, and the commands that give it and the storage to both."""
    group = f"/subscriptions/{settings['subscription'] or 'SUBSCRIPTION'}/resourceGroups/"
    group += settings["group"] or "GROUP"
    storage = f"{group}/providers/Microsoft.Storage/storageAccounts/{settings['account'] or 'ACCOUNT'}"
    container = re.match(r"\w+://([^/@]+)", spec.output)
    blobs = f"{storage}/blobServices/default/containers/{container[1] if container else 'CONTAINER'}"
    who = settings["identity"] or "THE-CLUSTER"
    usages = [f"{PROVIDER}/locations/usages/read", f"{PROVIDER}/locations/vmSizes/read"]
    role = {
        "Name": "inflame sends jobs",
        "IsCustom": True,
        "Description": "Sends, sees and stops command jobs; makes the clusters that they need.",
        "Actions": [f"{PROVIDER}/workspaces/{verb}" for verb in _VERBS] + usages,
        "NotActions": [],
        "AssignableScopes": [group],
    }
    give = "az role assignment create --role"
    return {
        "you": role,
        "commands": [
            "az role definition create --role-definition you.json",
            f'{give} "inflame sends jobs" --assignee YOU --scope {group}',
            f'{give} "Storage Blob Data Contributor" --assignee YOU --scope {blobs}',
            f'{give} "Storage Blob Data Contributor" --assignee {who} --scope {blobs}',
        ],
    }


def _seen(workspace: Workspace) -> Finding:
    what = "workspace and rights"
    try:
        region = workspace.get("")["location"]
    except Absent:
        text = f"There is no workspace {workspace.settings['workspace']} in the group {workspace.settings['group']}."
        remedy = f"az ml workspace create --name {workspace.settings['workspace']} -g {workspace.settings['group']}"
        return Finding(what=what, state=NOT_OK, text=text, remedy=remedy)
    return Finding(what=what, state=OK, text=f"{workspace.settings['workspace']} in {region} can be seen.")


def _quota(workspace: Workspace, spec: JobSpec) -> Finding:
    """Cores of the machine's family that are left in the region."""
    size = machines.find(spec.machine, NAME)
    region = workspace.get("")["location"]
    url = workspace.url("").partition("/resourceGroups/")[0] + f"/providers/{PROVIDER}/locations/{region}"
    sizes = workspace.rest.get(f"{url}/vmSizes", **{"api-version": VERSION}).get("value", [])
    found = next((one for one in sizes if one["name"].lower() == size.native.lower()), None)
    if found is None:
        text = f"{size.native} doesn't exist in {region}."
        return Finding(what="quota", state=NOT_OK, text=text, remedy="Take another --machine or region.")
    usages = workspace.rest.get(f"{url}/usages", **{"api-version": VERSION}).get("value", [])
    kind = "lowPriorityCores" if spec.spot else found["family"]
    usage = next((one for one in usages if one["name"]["value"].lower() == kind.lower()), None)
    if usage is None:
        text = f"Azure lists no quota of {kind}."
        return Finding(what="quota", state=NOT_OK, text=text, remedy=REMEDIES["quota"])
    left, wanted = usage["limit"] - usage["currentValue"], found["vCPUs"] * spec.count
    text = f"{left} cores of {kind} are left in {region}, and the job needs {wanted}."
    state = OK if left >= wanted else NOT_OK
    return Finding(what="quota", state=state, text=text, remedy="" if state == OK else REMEDIES["quota"])
