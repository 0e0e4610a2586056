"""What a shard says of one item."""

from __future__ import annotations

from dataclasses import dataclass

REMEDY = "Get or make the file again, or take what is whole: --skip-bad (train: skip_bad=true)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One item of a shard. `key` finds its bytes again (a record number, a member's name); `uri` is where it came
    from, `ext` its file ending (".jpg"), `height` and `width` pixels, 0 when nobody says."""

    key: str
    label: str
    split: str = ""
    sha256: str = ""
    group: str = ""
    time: str = ""
    uri: str = ""
    ext: str = ""
    height: int = 0
    width: int = 0
