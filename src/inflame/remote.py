"""Places behind a uri (s3:// gs:// az:// and what else fsspec reads): asked patiently, and refused in one voice.

A request that fails is made again, later and later, and not for ever; one that is refused for want of rights is not.
Secrets come from the environment only.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from inflame.errors import DataError, InflameError, MissingExtra, NetworkError, UserError, nearest

EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az", "http": "http", "https": "http"}
SCHEMES = ("file", "memory", *EXTRAS)
SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")

TRIES = 6
PAUSE = 0.2  # seconds before the second try; twice as long before each further one
PATIENCE = 60.0  # seconds after which no further try is begun

_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "http": "in the address, a signature that is still valid",
}
_OPTIONS: dict[str, dict[str, Any]] = {  # botocore's own tries times s3fs's times ours would take many minutes
    "s3": {"config_kwargs": {"retries": {"total_max_attempts": 1}}, "max_concurrency": 2},
}
_REFUSED = re.compile(
    "access.?denied|forbidden|permission|no.?credentials|unable to locate credentials|invalidaccesskeyid|"
    "signaturedoesnotmatch|expiredtoken|unauthorized|anonymous caller|status=40[13]",
    re.IGNORECASE,
)
_FINAL = (ValueError, TypeError, NotImplementedError, FileExistsError)  # the next try would say the same

T = TypeVar("T")


def ask(uri: str, task: Callable[[Any, str], T]) -> T:
    """What `task(file system, place in it)` gives, tried up to `TRIES` times within `PATIENCE` seconds.

    Nothing there, or no right: DataError that says what to set. Still failing: NetworkError. A scheme that is not
    known: UserError; a driver that is not installed: MissingExtra.
    """
    system, place = _system(uri)
    begun, turn = time.monotonic(), 0
    while True:
        turn += 1
        try:
            return task(system, place)
        except InflameError:
            raise
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise absent(shown(uri), error) from error
        except Exception as error:  # drivers can raise nearly anything
            if _refused(error):
                raise _forbidden(uri, error) from error
            if turn == TRIES or isinstance(error, _FINAL) or time.monotonic() - begun > PATIENCE:
                raise _unreachable(uri, error, turn) from error
        # Jitter: processes that were turned away together don't come back together.
        time.sleep(PAUSE * 2 ** (turn - 1) * (0.5 + os.urandom(1)[0] / 255))


def shown(uri: str) -> str:
    """The uri without a password or a signed query: fit for messages and logs."""
    return re.sub(r"://[^/@]*:[^/@]*@", "://", uri).partition("?")[0]


def absent(where: str, error: OSError) -> DataError:
    """The error for a file that isn't there, or is no file."""
    what = "is a folder, not a file" if isinstance(error, IsADirectoryError) else "does not exist"
    return DataError(
        f"{where} {what}.", where=where, remedy="Check the name; relative paths start at the folder you are in."
    )


def _system(uri: str) -> tuple[Any, str]:
    """The fsspec file system of `uri`, and the place in it."""
    from importlib import import_module

    found = SCHEME.match(uri)
    scheme = found[1].lower() if found else ""
    if scheme not in SCHEMES:
        guess = nearest(scheme, SCHEMES)
        raise UserError(
            f"{scheme}:// is not a place that inflame can reach." + (f' Did you mean "{guess}://"?' if guess else ""),
            where=shown(uri),
            remedy="Use a path, or one of " + " ".join(f"{name}://" for name in SCHEMES) + ".",
        )
    try:
        kind = import_module("fsspec").get_filesystem_class(scheme)
    except ImportError as error:
        raise MissingExtra(
            f"Reading and writing {scheme}:// needs a package that isn't installed ({error}).",
            extra=EXTRAS.get(scheme, "remote"),
            where=shown(uri),
        ) from error
    # What other processes write must be seen: nothing that was listed once is believed later.
    options = {"use_listings_cache": False, **_OPTIONS.get(scheme, {}), **kind._get_kwargs_from_urls(uri)}
    try:
        return kind(**options), str(kind._strip_protocol(uri))
    except Exception as error:  # of drivers some look for keys at once, and can raise nearly anything
        raise _forbidden(uri, error) from error


def _refused(error: BaseException) -> bool:
    told = f"{type(error).__name__} {error}"
    return isinstance(error, PermissionError) or _REFUSED.search(told) is not None


def _forbidden(uri: str, error: Exception) -> DataError:
    found = SCHEME.match(uri)
    scheme = found[1].lower() if found else ""
    bucket = "/".join(shown(uri).split("/")[:3])
    return DataError(
        f"{bucket} refused a request for {shown(uri)}: {_told(error)}.",
        where=shown(uri),
        remedy=f"Give your account the right to list, read and write {bucket}, or set other keys in the environment: "
        f"{_KEYS.get(EXTRAS.get(scheme, ''), 'those of its driver')}.",
    )


def _told(error: Exception) -> str:
    """What a driver said, without the signed queries of addresses."""
    return re.sub(r"(://[^\s'\"?]*)\?[^\s'\")]*", r"\1", str(error))


def _unreachable(uri: str, error: Exception, tries: int) -> NetworkError:
    often = f" in {tries} tries" if tries > 1 else ""
    return NetworkError(
        f"{shown(uri)} could not be reached{often}: {type(error).__name__}: {_told(error)}",
        where=shown(uri),
        remedy="Check the address, the network and the credentials in the environment, then give the same command "
        "again.",
    )
