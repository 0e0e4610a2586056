"""A Python like the one in a job's image: it has what images of its family have, and nothing else of what is here.

What the image brings along is taken from here by links, because two gigabytes of torch need not be brought once more.
So a package that the list of requirements forgets is missed here as it would be there.
"""

from __future__ import annotations

import hashlib
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from inflame import store
from inflame.infra.pack import requirements


def python(image: str = "") -> Path:
    """The program, in an environment that is made once for the same packages."""
    brought = _brought(image)
    listed = "\n".join(f"{name}=={dist.version}" for name, dist in sorted(brought.items()))
    told = f"{sys.version}\n{sys.executable}\n{listed}"
    target = store.home() / "cache" / "pythons" / hashlib.sha256(told.encode()).hexdigest()[:24]
    if not target.is_dir():
        with store.atomic_folder(target) as made:
            venv.EnvBuilder(symlinks=True, with_pip=False).create(made)
            site = next(made.glob("lib/python*/site-packages"))
            for dist in brought.values():
                _link(dist, site)
    return target / "bin" / "python"


def _brought(image: str) -> dict[str, metadata.Distribution]:
    """What images of the family have, as far as it is installed here, with all that it needs in turn."""
    found: dict[str, metadata.Distribution] = {}
    rest = list(requirements.IMAGES[requirements.family(image)])
    while rest:
        name = str(canonicalize_name(rest.pop()))
        dist = None if name in found else requirements.installed(name)
        if dist is not None:
            found[name] = dist
            rest += [one.name for one in requirements.needs(dist, {""})]
    return found


def _link(dist: metadata.Distribution, site: Path) -> None:
    """The folders and files of a package that stand beside those of others."""
    names = {file.parts[0] for file in dist.files or ()} - {"..", "__pycache__"}
    for name in names:
        if not (site / name).exists():
            (site / name).symlink_to(Path(str(dist.locate_file(name))).resolve())
