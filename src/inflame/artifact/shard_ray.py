"""The same sharding on a Ray cluster: one task a shard. What a node that dies was making is made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from inflame import plugins
from inflame.artifact.shard import Job, make


def runner(address: str = "") -> Callable[[Sequence[Job]], Iterator[dict[str, Any]]]:
    """What does jobs on the cluster at `address` (`auto`: the one this machine is part of; "": one made here).

    The target must be a place that all nodes reach: a bucket or a shared folder. Without Ray: MissingExtra.
    """
    ray: Any = plugins.need("ray", "ray", "Sharding on a cluster")

    def run(jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        if not ray.is_initialized():
            ray.init(address=address or None, log_to_driver=False, include_dashboard=False)
        task = ray.remote(num_cpus=1, max_retries=5)(make)
        waiting = [task.remote(job) for job in jobs]
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            yield from ray.get(done)

    return run
