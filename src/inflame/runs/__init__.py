"""Run folders: the contract between processes. Whoever wants to know about a run reads its folder.

`config.json  dataset.json  provenance.json  metrics.jsonl  predictions.parquet  last/  best/  bundle/
report.html  status.json  log.txt`, and `lock`, held by the process that is at work.
"""

from inflame.runs.index import known
from inflame.runs.listing import find, latest, list_runs
from inflame.runs.run import Follower, Follows, Run, read_metrics

__all__ = ["Follower", "Follows", "Run", "find", "known", "latest", "list_runs", "read_metrics"]
