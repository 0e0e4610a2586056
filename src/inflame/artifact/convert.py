"""A data set as what other libraries work with: torch tensors, Arrow, pandas, a Hugging Face Dataset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from inflame import plugins
from inflame.artifact import packed, texts
from inflame.artifact.contents import Contents
from inflame.artifact.formats.parquet import features
from inflame.records import Dataset, Preprocess

if TYPE_CHECKING:
    import torch


def to_torch(dataset: Dataset, size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(items, labels int64 [N]), in the order of the rows; labels index `dataset.classes`.

    Pictures: uint8 [N,C,size,size], the centre square in RGB (packed sets in their own size and colours where `size`
    is None; else 224). Texts: float32 [N,V], how often each word of the set's own vocabulary occurs, sparse COO.
    """
    plugins.need("torch", "train", "Tensors of a data set")
    import torch

    index = {name: number for number, name in enumerate(dataset.classes)}
    labels = torch.tensor([index[label] for label in dataset.items["label"].to_pylist()], dtype=torch.int64)
    if dataset.kind == "text":
        return _counted(dataset), labels
    if packed.is_packed(dataset) and size is None:
        images = packed.images(dataset)
        rows = [int(uri.rpartition("#")[2]) for uri in dataset.items["uri"].to_pylist()]
        pixels = torch.from_numpy(np.array(images[rows]))
        return (pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)).contiguous(), labels
    from inflame.artifact import loader

    side = size or 224
    whole = Dataset(**{**_fields(dataset), "items": _one_split(dataset.items)})
    pictures = loader.load(whole, Preprocess(size=side, resize=side))["all"] if len(dataset) else None
    if pictures is None:
        return torch.zeros(0, 3, side, side, dtype=torch.uint8), labels
    return pictures.pixels.permute(0, 3, 1, 2).contiguous(), labels


def to_arrow(dataset: Dataset) -> pa.Table:
    """A table: `image: struct<bytes, path>` (the files as they are; packed pictures as PNG) or `text`, `label` (int64)
    and the columns of the items, with the metadata by which Hugging Face's library knows pictures and classes."""
    uris = dataset.items["uri"].to_pylist()
    index = {name: number for number, name in enumerate(dataset.classes)}
    if dataset.kind == "text":
        source = Contents(dataset.root)
        name, content = "text", pa.array([texts.decode(source.read(uri))[0] for uri in uris], pa.string())
    else:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        name, content = (
            "image",
            pa.array([{"bytes": data, "path": uri} for uri, data in zip(uris, _files(dataset), strict=True)], kind),
        )
    labels = pa.array([index[label] for label in dataset.items["label"].to_pylist()], pa.int64())
    extra = {column: dataset.items[column] for column in ("split", "sha256", "group", "time", "uri")}
    table = pa.table({name: content, "label": labels, **extra})
    told = json.dumps({"info": {"features": features(dataset.kind, dataset.classes)}})
    return table.replace_schema_metadata({"huggingface": told})


def to_pandas(dataset: Dataset) -> Any:
    """A frame: `image` (bytes of the file) or `text`, `label` (the class's name) and the columns of the items."""
    plugins.need("pandas", "hf", "A frame of a data set")
    import pandas as pd

    found: dict[str, Any] = {"label": pd.Categorical(dataset.items["label"].to_pylist(), dataset.classes)}
    if dataset.kind == "text":
        source = Contents(dataset.root)
        found["text"] = [texts.decode(source.read(uri))[0] for uri in dataset.items["uri"].to_pylist()]
    else:
        found["image"] = _files(dataset)
    columns = {name: dataset.items[name].to_pylist() for name in ("split", "sha256", "group", "time", "uri")}
    return pd.DataFrame({**found, **columns})


def to_huggingface(dataset: Dataset) -> Any:
    """A `datasets.Dataset` with an `Image` (or text) and a `ClassLabel`; of all splits, told by the column `split`."""
    datasets = plugins.need("datasets", "hf", "A Hugging Face data set")
    return datasets.Dataset(to_arrow(dataset))


def _files(dataset: Dataset) -> list[bytes]:
    uris = dataset.items["uri"].to_pylist()
    if not packed.is_packed(dataset):
        source = Contents(dataset.root)
        return [source.read(uri) for uri in uris]
    import io

    from PIL import Image

    images, found = packed.images(dataset), []
    for uri in uris:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(images[int(uri.rpartition("#")[2])]).squeeze()).save(file, "PNG")
        found.append(file.getvalue())
    return found


def _counted(dataset: Dataset) -> torch.Tensor:
    import torch

    tokens = texts.tokenised(dataset)
    learned = texts.learn(tokens, pairs=0)
    counts = texts.Vectoriser(learned)(tokens)
    rows = np.repeat(np.arange(len(counts)), np.diff(counts.starts))
    places = torch.from_numpy(np.stack([rows, counts.ids]))
    shape = (len(counts), len(learned.words))
    return torch.sparse_coo_tensor(
        places, torch.from_numpy(counts.counts), shape, is_coalesced=True, check_invariants=True
    )


def _one_split(items: pa.Table) -> pa.Table:
    same = pa.array(["all"] * items.num_rows, pa.string())
    return items.set_column(items.schema.get_field_index("split"), "split", same)


def _fields(dataset: Dataset) -> dict[str, Any]:
    return {name: getattr(dataset, name) for name in Dataset.__dataclass_fields__}
