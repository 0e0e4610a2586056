"""Shards of many items in one file: TFRecord, WebDataset tar and Parquet, read and written without their frameworks.

Each module has `entries(path)` (what is in a shard, without decoding a picture), `opened(path)` (key → bytes) and
`Writer(path)`.
"""
