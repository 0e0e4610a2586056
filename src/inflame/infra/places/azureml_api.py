"""The REST API of an Azure ML workspace, below Azure's resource manager: what it is asked by, and as whom."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from inflame import plugins
from inflame.errors import NetworkError, UserError
from inflame.infra import places
from inflame.infra.places import Setting
from inflame.infra.places.rest import Absent, Rest

NAME = "azureml"
SETTINGS = (
    Setting(
        name="subscription",
        help="the subscription that pays",
        variables=("AZUREML_ARM_SUBSCRIPTION", "AZURE_SUBSCRIPTION_ID"),
        example="00000000-0000-0000-0000-000000000000",
        required=True,
    ),
    Setting(
        name="group",
        help="the resource group of the workspace",
        variables=("AZUREML_ARM_RESOURCEGROUP", "AZURE_RESOURCE_GROUP"),
        example="my-group",
        required=True,
    ),
    Setting(
        name="workspace",
        help="the workspace",
        variables=("AZUREML_ARM_WORKSPACE_NAME", "AZUREML_WORKSPACE"),
        example="my-workspace",
        required=True,
    ),
    Setting(
        name="account",
        help="the storage account of the output",
        variables=("AZURE_STORAGE_ACCOUNT_NAME",),
        example="mystorage",
        required=True,
    ),
    Setting(name="compute", help="a cluster of yours; without, one is made that shrinks to nothing"),
    Setting(name="most", help="machines that a cluster of ours may have", default="4"),
    Setting(name="identity", help="client id of the managed identity that the job and a cluster of ours have"),
    Setting(name="identity_id", help="resource id of that identity, for a cluster of ours"),
    Setting(name="image", help="the container image", default="pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime"),
    Setting(name="endpoint", help="another address of the service", variables=("INFLAME_AZUREML_ENDPOINT",)),
)
VERSION = "2024-10-01"
_SCOPE = "https://management.azure.com/.default"
PROVIDER = "Microsoft.MachineLearningServices"
REMEDIES = {
    "login": "Type   az login   or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET.",
    "rights": "Give yourself the role that inflame doctor --on azureml prints.",
    "quota": "Ask for more: Azure ML studio > Quota, or take another --machine or region.",
    "wrong": "Correct what it names: workspace, image, machine or storage. See: inflame doctor --on azureml",
}


class Workspace:
    """The workspace that the settings of the place name."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.settings = settings
        self._rest: Rest | None = None
        self._credential: Any = None

    @property
    def rest(self) -> Rest:
        """The API, with your credentials."""
        if self._rest is None:
            self._rest = Rest(NAME, "azure", self._token, REMEDIES)
        return self._rest

    @property
    def path(self) -> str:
        """What Azure calls it, as all its resources begin."""
        it = self.settings
        group = f"/subscriptions/{it['subscription']}/resourceGroups/{it['group']}"
        return f"{group}/providers/{PROVIDER}/workspaces/{it['workspace']}"

    def url(self, path: str) -> str:
        """The address of a path below the workspace."""
        base = self.settings["endpoint"].rstrip("/") or "https://management.azure.com"
        return f"{base}{self.path}/{path}".rstrip("/")

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of a path below it, as JSON."""
        return self.rest.ask(method, self.url(path), body, {"api-version": VERSION})

    def get(self, path: str) -> dict[str, Any]:
        """What it has at a path below it. Nothing: Absent."""
        found: dict[str, Any] = self.ask("GET", path)
        return found

    def details(self, job: str) -> dict[str, Any]:
        """What the run history says of a job: error and addresses of its logs. It is at another address."""
        try:
            services = self.get(f"jobs/{job}")["properties"].get("services") or {}
        except Absent:
            return {}
        tracking = re.match(r"azureml://([^/]+)/", services.get("Tracking", {}).get("endpoint", "") or "")
        base = self.settings["endpoint"].rstrip("/") or (f"https://{tracking[1]}" if tracking else "")
        if not base:
            return {}
        try:
            found: dict[str, Any] = self.rest.get(f"{base}/history/v1.0{self.path}/runs/{job}/details")
        except Absent:
            return {}
        return found

    def text(self, url: str) -> str:
        """What is at a signed address, which must not see our token."""
        import requests

        try:
            answer = requests.get(url, timeout=30)
            answer.raise_for_status()
        except requests.RequestException as error:
            text = f"The log could not be read: {type(error).__name__}"
            raise NetworkError(text, where=url.partition("?")[0], remedy="Give the same command again.") from error
        return str(answer.content.decode(errors="replace"))

    def _token(self, fresh: bool) -> str:
        """From azure-identity, as `az login` or AZURE_* say; the loopback takes any."""
        if places.loopback(self.settings):
            return "loopback-fresh" if fresh else "loopback"
        identity = plugins.need("azure.identity", "azure", "The place azureml")
        wrong = plugins.need("azure.core.exceptions", "azure")
        logging.getLogger("azure.identity").setLevel(logging.ERROR)  # all ways that it has tried, in twenty lines
        try:
            if self._credential is None or fresh:
                self._credential = identity.DefaultAzureCredential(exclude_interactive_browser_credential=True)
            return str(self._credential.get_token(_SCOPE).token)
        except wrong.ClientAuthenticationError as error:
            said = str(error).splitlines()[0]
            text = f"Azure has no credentials of yours: {said}"
            raise UserError(text, where=NAME, remedy=REMEDIES["login"]) from error
