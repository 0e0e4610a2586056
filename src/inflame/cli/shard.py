"""The verb shard: many files become few."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inflame.cli import places
from inflame.cli.data import progress
from inflame.cli.show import as_json
from inflame.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser


def shard_words(parser: Parser) -> None:
    """The data, where the shards go, and how they are made."""
    parser.usage = "inflame shard DATA TARGET [--to FORMAT] [--size N] [--shard-mb N] [--workers N]"
    parser.description = (
        "Write a data set as shards: few large files that are read in a stream, from a disk or a bucket.\n"
        "Pictures are made smaller on the way. DATA and TARGET may be folders or buckets (gs:// s3:// az://\n"
        "abfs://; keys come from the environment). Memory stays small whatever the size. Stopped or killed?\n"
        "The same command goes on, shard by shard. TensorFlow, webdataset and Hugging Face's datasets read\n"
        "what is written; so does inflame: inflame train TARGET."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame shard photos/ shards/\n"
        "  inflame shard s3://raw/photos gs://mine/shards --to webdataset --size 384 --workers 8\n"
        "  inflame shard shards/ --verify\n"
        "  inflame shard photos/ shards/ --on ray --address auto"
    )
    parser.add_argument("data", metavar="DATA", help="a folder, zip, table, bucket or name")
    parser.add_argument("target", nargs="?", metavar="TARGET", help="the folder or bucket for the shards")
    parser.add_argument("--to", default="tfrecord", metavar="FORMAT", help="tfrecord (default), webdataset or parquet")
    parser.add_argument("--size", type=int, default=256, metavar="N", help="short side in pixels; 0: files as they are")
    parser.add_argument("--shard-mb", type=float, default=256, metavar="N", help="size of a shard (default: 256)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another order")
    parser.add_argument("--skip-bad", action="store_true", help="leave out what can't be read, and say so")
    parser.add_argument("--on", choices=("here", "ray"), default="here", help="this machine, or a Ray cluster")
    parser.add_argument("--address", metavar="HOST:PORT", default="", help="of the Ray cluster (default: a local one)")
    parser.add_argument("--verify", action="store_true", help="check the shards in DATA against their index")


def shard(words: Namespace) -> int:
    """Writes (or verifies) the shards and prints what there is."""
    from inflame.artifact import buckets, finding
    from inflame.artifact import shard as sharding

    if words.verify:
        index = sharding.verify(words.data)
        print(as_json(index, indent=1) if words.json else f"{_told(index)}: all as the index says")
        return 0
    if not words.target:
        raise UserError("inflame shard needs a place for the shards.", remedy="inflame shard photos/ shards/")
    data = words.data if buckets.is_bucket(words.data) else places.data(words.data)
    found = finding.listed(data, skip_bad=words.skip_bad)
    recipe = sharding.Recipe(
        to=words.to, size=words.size, shard_mb=words.shard_mb, seed=words.seed, skip_bad=words.skip_bad
    )
    run = None
    if words.on == "ray":
        from inflame.artifact import shard_ray

        run = shard_ray.runner(words.address)
    with progress("sharding") as update:
        index = sharding.shard(found, words.target, recipe, workers=words.workers, progress=update, run=run)
    if words.json:
        print(as_json(index, indent=1))
        return 0
    print(f"wrote  {_told(index)} to {words.target}")
    for item in index["skipped"][:5]:
        print(f"       left out {item['uri']}: {item['reason']}")
    print(f"next   inflame train {words.target} --in 60s")
    return 0


def _told(index: dict[str, object]) -> str:
    shards, size = index["shards"], index["bytes"]
    assert isinstance(shards, list)
    assert isinstance(size, int)
    left = f", {len(index['skipped']):,} left out" if index["skipped"] else ""  # type: ignore[arg-type]
    return f"{index['items']:,} items in {len(shards):,} shards, {size / 1e6:,.1f} MB{left}"
