"""A local folder of a sentence-embedding model (BERT's family, as `sentence-transformers` saves it) as a frozen body.

The folder holds `config.json`, `vocab.txt` (or `tokenizer.json`) and `model.safetensors`; `1_Pooling/config.json` and
`tokenizer_config.json` are heeded where they are. Nothing is ever downloaded, and no package but torch is needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from inflame import store
from inflame.artifact import texts
from inflame.artifact.texts import Counts
from inflame.errors import DataError
from inflame.records import TextPreprocess

LONGEST = 256  # pieces of a text that are read: what these models were trained with
BATCH = 32
_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


class Encoder(nn.Module):
    """BERT's encoder and the mean (or the first) of its outputs, of length 1: ids int64 [N,L], counts float32 [N,L]
    (1: a piece, 0: padding) → [N,D]. Its weights have the names of the original's."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config.get("layer_norm_eps", 1e-12)
        self.heads, self.first = config["num_attention_heads"], config.get("pooling") == "cls"
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config["vocab_size"], width),
                "position_embeddings": nn.Embedding(config.get("max_position_embeddings", 512), width),
                "token_type_embeddings": nn.Embedding(config.get("type_vocab_size", 2), width),
                "LayerNorm": nn.LayerNorm(width, eps),
            }
        )
        layers = [
            _Layer(width, config["intermediate_size"], self.heads, eps) for _ in range(config["num_hidden_layers"])
        ]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, ids: Tensor, counts: Tensor) -> Tensor:
        """[N,L], [N,L] → [N,D]."""
        parts, places = self.embeddings, torch.arange(ids.shape[1], device=ids.device)
        x = parts["word_embeddings"](ids) + parts["position_embeddings"](places)
        x = parts["LayerNorm"](x + parts["token_type_embeddings"](torch.zeros_like(ids)))
        there = (counts > 0).to(x.dtype)
        hidden = (1 - there)[:, None, None] * torch.finfo(torch.float32).min
        for layer in self.encoder["layer"]:  # type: ignore[attr-defined]
            x = layer(x, hidden)
        pooled = x[:, 0] if self.first else (x * there[..., None]).sum(1) / there.sum(1, keepdim=True).clamp_min(1)
        return functional.normalize(pooled, dim=1)


class _Layer(nn.Module):
    """Attention and two linear layers, each added to its input and normalised."""

    def __init__(self, width: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        looks = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        added = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps)})
        self.attention = nn.ModuleDict({"self": looks, "output": added})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps)})

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """[N,L,D] → [N,L,D]; hidden: [N,1,1,L], far below zero where there is padding."""
        looks, added = self.attention["self"], self.attention["output"]
        query, key, value = (
            looks[name](x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # type: ignore[index]
            for name in ("query", "key", "value")
        )
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + hidden).softmax(dim=-1)
        seen = (weights @ value).transpose(1, 2).flatten(2)
        x = added["LayerNorm"](x + added["dense"](seen))  # type: ignore[index]
        inner = functional.gelu(self.intermediate["dense"](x))
        found: Tensor = self.output["LayerNorm"](x + self.output["dense"](inner))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences:
    """A model of a folder: its body, how texts become its inputs, and a hash of both."""

    name: str
    body: Encoder
    config: dict[str, Any]
    preprocess: TextPreprocess
    key: str


def load(folder: str | Path) -> Sentences:
    """The model in `folder`. Raises DataError when it isn't one that can be used, with what is missing."""
    place = Path(folder).expanduser()
    config = _json(place / "config.json")
    missing = [name for name in _NEEDED if name not in config]
    if config.get("model_type", "bert") != "bert" or missing or config.get("hidden_act", "gelu") != "gelu":
        kind = config.get("model_type", "nothing that says its kind")
        raise _unusable(place, f"it is of kind {kind}, and only BERT's family is read", "config.json")
    pooling = _json(place / "1_Pooling" / "config.json", {})
    config = {name: config[name] for name in (*_NEEDED, *_OPTIONAL) if name in config}
    config["pooling"] = "cls" if pooling.get("pooling_mode_cls_token") else "mean"
    body, weights = Encoder(config), place / "model.safetensors"
    _fill(body, weights, place)
    said = _json(place / "tokenizer_config.json", {})
    preprocess = TextPreprocess(
        words=_vocabulary(place, config["vocab_size"]),
        pairs=0,
        longest=min(LONGEST, config.get("max_position_embeddings", 512)),
        pieces="small" if said.get("do_lower_case", True) else "any",
    )
    digest = hashlib.sha256(json.dumps([config, preprocess.to_json()]).encode())
    digest.update(weights.read_bytes())
    return Sentences(
        name=place.name, body=body.eval(), config=config, preprocess=preprocess, key=digest.hexdigest()[:24]
    )


_OPTIONAL = ("max_position_embeddings", "type_vocab_size", "layer_norm_eps")


def _fill(body: Encoder, file: Path, place: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = {name.removeprefix("bert."): value.float() for name, value in load_file(file).items()}
        body.load_state_dict({name: state[name] for name in body.state_dict()})
    except (OSError, SafetensorError) as error:
        raise _unusable(place, f"its weights can't be read ({error})", file.name) from error
    except (KeyError, RuntimeError) as error:
        raise _unusable(place, "its weights don't fit its config.json", file.name) from error


def _vocabulary(place: Path, size: int) -> tuple[str, ...]:
    """The pieces in the order of their ids."""
    if (place / "vocab.txt").is_file():
        found = (place / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    else:
        ids = _json(place / "tokenizer.json").get("model", {}).get("vocab")
        if not isinstance(ids, dict):
            raise _unusable(place, "its tokenizer.json has no vocabulary of pieces", "vocab.txt")
        found = sorted(ids, key=lambda piece: int(ids[piece]))
    if len(found) > size or not {"[CLS]", "[SEP]", "[UNK]"} <= set(found):
        raise _unusable(place, "its vocabulary isn't that of the model", "vocab.txt")
    return tuple(found)


def _json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    if default is not None and not path.is_file():
        return default
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(path.parent, f"its {path.name} can't be read ({error})", path.name) from error
    return value if isinstance(value, dict) else {}


def _unusable(place: Path, why: str, file: str) -> DataError:
    return DataError(
        f"The sentence model {place.name} can't be used: {why}.",
        where=str(place / file),
        remedy="Name a folder with config.json (of BERT's family), vocab.txt and model.safetensors.",
    )


def features(
    model: Sentences,
    counts: Counts,
    *,
    hashes: list[str],
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """What the body makes of each text, [N,D]; computed once and kept on disk. hashes: the SHA-256 of each text."""
    name = hashlib.sha256("\n".join([model.key, *hashes]).encode()).hexdigest()[:24]
    path = store.home() / "cache" / "features" / f"{name}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    order = np.argsort(np.diff(counts.starts), kind="stable")
    found = np.empty((len(counts), model.config["hidden_size"]), np.float32)
    body = model.body.to(device)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            inputs = [torch.from_numpy(value).to(device) for value in counts.take(rows).padded().values()]
            found[rows] = body(*inputs).cpu().numpy()
            if progress:
                progress(min(start + BATCH, len(order)), len(order))
    with store.atomic(path) as part, part.open("wb") as file:
        np.save(file, found, allow_pickle=False)
    return found


def read(model: Sentences, told: list[str]) -> Counts:
    """Texts as the model's pieces."""
    count = texts.Vectoriser(model.preprocess)
    return count([count.read(text) for text in told])
