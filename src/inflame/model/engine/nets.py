"""Nets. Every one is a `Classifier`: a body that turns inputs into features and a head that turns those into logits.

That one shape is what the probe, the tail, the bundle and the drift statistics rely on. A net is remade from its
`spec`, a small JSON dict, so that weights alone (safetensors) are enough to load it again.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from inflame.errors import SettingError, nearest

FAMILIES = ("timm", "torchvision")


class Classifier(nn.Module):
    """`forward(x)` = `head(body(x))`. x: float32 [N,C,H,W], normalised (of texts: ids and counts [N,L]); body: features
    [N,D]; head: logits [N,K]."""

    def __init__(self, body: nn.Module, head: nn.Module, spec: dict[str, Any]) -> None:
        super().__init__()
        self.body, self.head, self.spec = body, head, spec

    def forward(self, *x: Tensor) -> Tensor:
        """Logits [N,K]."""
        logits: Tensor = self.head(self.body(*x))
        return logits


def build(spec: dict[str, Any]) -> Classifier:
    """The net that `spec` describes, with fresh weights.

    Raises SettingError when the kind or the timm name doesn't exist (with the nearest name).
    """
    if spec.get("mirrored"):
        return mirrored(build({key: value for key, value in spec.items() if key != "mirrored"}))
    if spec.get("shapes"):
        from inflame.model.engine.pruning import reshape

        return reshape(build({key: value for key, value in spec.items() if key != "shapes"}), spec["shapes"])
    if spec["kind"] == "torchvision":
        return from_torchvision(spec["name"], classes=spec["classes"], head=spec["head"])
    own: dict[str, Callable[..., Classifier]] = {"small": small, "paired": paired, "linear": linear, "bag": bag}
    if spec["kind"] in own:
        return own[spec["kind"]](**{key: value for key, value in spec.items() if key != "kind"})
    if spec["kind"] == "timm":
        net = from_timm(spec["name"], classes=spec["classes"], head=spec["head"], **spec.get("options", {}))
        if spec.get("small_stem"):
            small_stem(net)
        return net
    if spec["kind"] == "sentences":
        from inflame.model.engine.sentences import Encoder

        body = Encoder(spec["config"])
        return Classifier(body, new_head(spec["head"], spec["config"]["hidden_size"], spec["classes"]), spec)
    if spec["kind"] == "keras":
        from inflame.model.engine import keras

        return keras.vgg16(**{key: spec[key] for key in ("size", "classes", "dropout")})
    raise SettingError(
        f"no net of kind {spec['kind']!r}",
        remedy="Use kind small, paired, timm, torchvision, linear, bag, sentences or keras.",
        where="the net's spec",
    )


def named(name: str, *, classes: int, pretrained: bool = False, head: str = "linear", **options: Any) -> Classifier:
    """A net by name: `resnet18` and `timm:resnet18` are timm's, `torchvision:vgg16` torchvision's. With pretrained,
    weights come from their hubs or the cache of these. Raises SettingError for a name that neither knows."""
    check(name)
    family, _, rest = name.rpartition(":")
    if family == "torchvision":
        return from_torchvision(rest, classes=classes, pretrained=pretrained, head=head)
    return from_timm(rest, classes=classes, pretrained=pretrained, head=head, **options)


def check(name: str) -> None:
    """Raises SettingError, with the nearest names, for a net that `named` doesn't know."""
    family, _, rest = name.rpartition(":")
    if family == "torchvision":
        from torchvision import models

        known = models.list_models(module=models)
    elif family in ("", "timm"):
        import timm

        if timm.is_model(rest):
            return
        known, family = timm.list_models(), "timm"
    else:
        hint = nearest(family, FAMILIES) or "timm"
        raise SettingError(f"There are no nets of {family!r}.", remedy=f"Did you mean net={hint}:{rest}?", where="net")
    if rest not in known:
        near = difflib.get_close_matches(rest, known, n=3)
        text = f"Did you mean {', '.join(near)}?" if near else f"{family}'s `list_models()` lists all names."
        raise SettingError(f"{family} has no model {rest!r}", remedy=text, where="net")


def linear(*, size: int, channels: int, classes: int) -> Classifier:
    """Softmax regression on the pixels: the baseline that any net has to beat."""
    spec = {"kind": "linear", "size": size, "channels": channels, "classes": classes}
    return Classifier(nn.Flatten(), nn.Linear(size * size * channels, classes), spec)


def bag(*, entries: int, classes: int) -> Classifier:
    """A linear model of texts: TF-IDF weights of words and pairs, times one matrix. `entries`: words and buckets."""
    spec = {"kind": "bag", "entries": entries, "classes": classes}
    head = nn.Linear(classes, classes)
    nn.init.eye_(head.weight)
    nn.init.zeros_(head.bias)
    return Classifier(Bag(entries, classes), head, spec)


class Bag(nn.Module):
    """Sums of rows of `weight` [V,D], weighted by TF-IDF: ids int64 [N,L], counts float32 [N,L] (0: padding) → [N,D].

    A count c weighs (1 + ln c) · idf, and the weights of a text have length 1 (Salton & Buckley, 1988). With sums in
    place of counts this is `nn.EmbeddingBag`, which is what runs but in an export.
    """

    idf: Tensor

    def __init__(self, entries: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(entries, width))
        self.register_buffer("idf", torch.ones(entries))

    def forward(self, ids: Tensor, counts: Tensor) -> Tensor:
        """[N,L], [N,L] → [N,D]."""
        weights = (1 + counts.clamp_min(1).log()) * self.idf[ids] * (counts > 0)
        weights = weights / torch.linalg.vector_norm(weights, dim=1, keepdim=True).clamp_min(1e-6)
        if torch.onnx.is_in_onnx_export():
            return torch.bmm(weights[:, None], self.weight[ids])[:, 0]
        return nn.functional.embedding_bag(ids, self.weight, per_sample_weights=weights, mode="sum")


def from_timm(name: str, *, classes: int, pretrained: bool = False, head: str = "linear", **options: Any) -> Classifier:
    """A timm model by name (`mobilenetv2_100`, `resnet18`, ...) with a new head for `classes`.

    head: "linear", or "hellinger" for `Hellinger` and a linear layer. options: passed to `timm.create_model`
    (`pad_type="same"`, `in_chans=1`, ...). With pretrained, the weights come from timm's hub or its cache.
    Raises SettingError for an unknown name, with the nearest ones.
    """
    import timm

    check(name)
    body = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    spec = {"kind": "timm", "name": name, "classes": classes, "head": head, "options": options}
    width: Any = getattr(body, "head_hidden_size", None) or body.num_features
    return Classifier(body, new_head(head, int(width), classes), spec)


def from_torchvision(name: str, *, classes: int, pretrained: bool = False, head: str = "linear") -> Classifier:
    """A classification model of torchvision by name (`vgg16`, `resnet50`, `convnext_tiny`), its last linear layer
    replaced by a head for `classes`. Raises SettingError for an unknown name, with the nearest ones."""
    from torchvision import models

    check(f"torchvision:{name}")
    # GoogLeNet and Inception have outputs beside the main one, for training only; ours has one.
    aside = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    body = models.get_model(name, weights="DEFAULT" if pretrained else None, **({} if pretrained else aside))
    if pretrained and aside:
        body.aux_logits = False
    last = [key for key, module in body.named_modules() if isinstance(module, nn.Linear)]
    if not last:
        raise SettingError(f"{name} of torchvision doesn't end in a linear layer.", remedy="net=timm:…", where="net")
    place, _, leaf = last[-1].rpartition(".")
    final = body.get_submodule(last[-1])
    assert isinstance(final, nn.Linear)
    setattr(body.get_submodule(place) if place else body, leaf, nn.Identity())
    spec = {"kind": "torchvision", "name": name, "classes": classes, "head": head}
    return Classifier(body, new_head(head, final.in_features, classes), spec)


def small_stem(net: Classifier) -> None:
    """Gives a ResNet of timm a 3 x 3 stem without pooling (He et al., 2016, for CIFAR): its own would leave nothing of
    pictures of 32 pixels."""
    stem = [layer for layer in net.body.conv1.modules() if isinstance(layer, nn.Conv2d)]  # type: ignore[union-attr]
    net.body.conv1 = nn.Conv2d(3, stem[-1].out_channels, 3, padding=1, bias=False)
    net.body.maxpool = nn.Identity()
    net.spec["small_stem"] = True


def new_head(kind: str, width: int, classes: int) -> nn.Module:
    """A fresh head: "linear" or "hellinger", features [N,width] → logits [N,classes]."""
    final = nn.Linear(width, classes)
    return nn.Sequential(Hellinger(), final) if kind == "hellinger" else final


def stages(body: nn.Module) -> list[nn.Module]:
    """The body as a chain of modules whose composition is `body(x)`; empty when its shape isn't one we can cut.

    Known: timm's MobileNet/EfficientNet family, ResNet family and ConvNeXt family; torchvision's ResNets and VGGs.
    """
    if all(hasattr(body, name) for name in ("features", "avgpool", "classifier")) and _is_chain(body.features):
        return [*_pooled(body.features), nn.Sequential(body.avgpool, nn.Flatten(), body.classifier)]  # type: ignore[arg-type]
    if all(hasattr(body, name) for name in ("conv1", "bn1", "relu", "maxpool", "layer4", "avgpool", "fc")):
        stem = nn.Sequential(body.conv1, body.bn1, body.relu, body.maxpool)  # type: ignore[arg-type]
        top = nn.Sequential(body.avgpool, nn.Flatten(), body.fc)  # type: ignore[arg-type]
        return [stem, body.layer1, body.layer2, body.layer3, body.layer4, top]  # type: ignore[list-item]
    if all(hasattr(body, name) for name in ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "global_pool")):
        stem, top = nn.Sequential(body.conv_stem, body.bn1), nn.Sequential(body.conv_head, body.bn2, body.global_pool)  # type: ignore[arg-type]
        return [stem, *body.blocks, top]  # type: ignore[misc]
    if all(
        hasattr(body, name) for name in ("conv_stem", "bn1", "blocks", "global_pool", "conv_head", "norm_head", "act2")
    ):
        stem = nn.Sequential(body.conv_stem, body.bn1)  # type: ignore[arg-type]
        top = nn.Sequential(body.global_pool, body.conv_head, body.norm_head, body.act2, nn.Flatten())  # type: ignore[arg-type]
        return [stem, *body.blocks, top]  # type: ignore[misc]
    if all(hasattr(body, name) for name in ("conv1", "bn1", "act1", "maxpool", "layer4", "global_pool")):
        stem = nn.Sequential(body.conv1, body.bn1, body.act1, body.maxpool)  # type: ignore[arg-type]
        return [stem, body.layer1, body.layer2, body.layer3, body.layer4, body.global_pool]  # type: ignore[list-item]
    if all(hasattr(body, name) for name in ("stem", "stages", "norm_pre", "head")):
        return [body.stem, *body.stages, nn.Sequential(body.norm_pre, body.head)]  # type: ignore[list-item, misc, arg-type]
    return []


def _is_chain(features: Any) -> bool:
    """Whether these are the layers of a VGG: convolutions, norms, activations and pooling, one after the other."""
    plain = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d)
    return isinstance(features, nn.Sequential) and all(isinstance(layer, plain) for layer in features)


def _pooled(features: nn.Sequential) -> list[nn.Module]:
    """The layers of a VGG, a stage for each resolution."""
    found: list[list[nn.Module]] = [[]]
    for layer in features:
        found[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            found.append([])
    return [nn.Sequential(*layers) for layers in found if layers]


class Mirrored(nn.Module):
    """A body that looks twice, at the picture and at its mirror image, and gives the mean of the features."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,H,W] → [N,D]."""
        mean: Tensor = (self.body(x) + self.body(x.flip(3))) / 2
        return mean


def mirrored(net: Classifier) -> Classifier:
    """The same net, answering for a picture and its mirror image together: twice the work."""
    return Classifier(Mirrored(net.body), net.head, {**net.spec, "mirrored": True})


class Hellinger(nn.Module):
    """Signed square root, then length 10: [N,D] → [N,D]. It tames the few loud features of a pretrained body.

    After Perronnin, Sánchez & Mensink (2010), "Improving the Fisher kernel". Smooth at zero, so that a body below
    it can be trained.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N,D] → [N,D]."""
        rooted = x / torch.sqrt(x.abs() + 1e-3)
        scaled: Tensor = 10 * rooted / torch.linalg.vector_norm(rooted, dim=1, keepdim=True).clamp_min(1e-6)
        return scaled


def small(
    *, size: int, channels: int, classes: int, widths: Sequence[int] = (32, 64, 128, 192), bias: bool = False
) -> Classifier:
    """A convolutional net for small pictures, made to learn in a few epochs on a CPU or a GPU.

    A whitening stem that isn't trained (`whiten` sets it from the data; above 32 pixels it halves the picture), then
    groups of one 3 x 3 convolution that halve it, each with identity initialisation, batch norm and GELU; the largest
    value of each channel is the feature. One convolution a group, early pooling: on a CPU more pictures seen beat a
    deeper net. widths: channels of the stem, then of each group; more groups of the last width follow until at most 3
    pixels are left. bias: of the last layer. After Page (2019) and Jordan (2024, arXiv:2404.00498).
    """
    stem_width, *group_widths = widths
    halved = size > 32
    stem = nn.Conv2d(channels, stem_width, *((4, 2, 1) if halved else (3, 1, 0)))
    layers: list[nn.Module] = [stem, nn.GELU()]
    side, groups = size // 2 if halved else size - 2, list(group_widths)
    if side >= 12:
        layers.append(nn.MaxPool2d(2))
        side //= 2
    while side >> len(groups) > 3:
        groups.append(groups[-1])
    while len(groups) > 1 and side >> len(groups) < 1:
        groups.pop()
    for inputs, outputs in pairwise([stem_width, *groups]):
        layers += [_conv(inputs, outputs), nn.MaxPool2d(2), nn.BatchNorm2d(outputs, momentum=0.4), nn.GELU()]
    body = nn.Sequential(*layers, _MaxPool())
    spec = {"kind": "small", "size": size, "channels": channels, "classes": classes, "widths": list(widths)}
    return Classifier(body, nn.Linear(groups[-1], classes, bias=bias), {**spec, "bias": True} if bias else spec)


def paired(*, channels: int, classes: int, widths: Sequence[int] = (24, 64, 256, 256)) -> Classifier:
    """A convolutional net for small pictures (best of 24 to 32 pixels), made for a GPU: two convolutions in each group.

    A whitening stem of 2 x 2 (see `whiten`), then groups of a 3 x 3 convolution that halves the picture and another
    one, both with identity initialisation and a batch norm of which only the bias is trained; the largest value of each
    channel is the feature. widths: channels of the stem, then of each group. After Jordan (2024, arXiv:2404.00498).
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 2), nn.GELU()]
    for inputs, outputs in pairwise(widths):
        layers += [_conv(inputs, outputs), nn.MaxPool2d(2), _biased(outputs), nn.GELU()]
        layers += [_conv(outputs, outputs), _biased(outputs), nn.GELU()]
    spec = {"kind": "paired", "channels": channels, "classes": classes, "widths": list(widths)}
    head = nn.Linear(widths[-1], classes, bias=False)
    with torch.no_grad():
        head.weight /= 9  # so far from certain that the first steps move the filters
    return Classifier(nn.Sequential(*layers, _MaxPool()), head, spec)


def whiten(net: Classifier, x: Tensor, *, floor: float = 5e-4) -> None:
    """Sets the stem of a `small` net so that patches of `x` (float32 [N,C,H,W], normalised) come out uncorrelated.

    The filters are the leading eigenvectors of the patches' covariance, scaled to unit variance, and their
    negatives (Page, 2019); they aren't trained. `x` may be on another device. Does nothing to other nets than `small`
    and `paired` ones.
    """
    stem = net.body[0] if isinstance(net.body, nn.Sequential) else None
    if net.spec.get("kind") not in ("small", "paired") or not isinstance(stem, nn.Conv2d):
        return
    side, step = stem.kernel_size[0], stem.stride[0]
    patches = x.unfold(2, side, step).unfold(3, side, step).permute(0, 2, 3, 1, 4, 5)
    patches = patches.reshape(-1, x.shape[1] * side * side)
    values, vectors = torch.linalg.eigh((patches.T @ patches / len(patches)).to(stem.weight.device))
    values = values.clamp_min(0)  # rounding can make those near zero negative, and their root no number
    count = min(stem.out_channels // 2, len(values))
    filters = (vectors.T.flip(0)[:count] / (values.flip(0)[:count] + floor).sqrt()[:, None]).reshape(
        count, *stem.weight.shape[1:]
    )
    with torch.no_grad():
        stem.weight[: 2 * count] = torch.cat([filters, -filters])
        if stem.bias is not None:
            stem.bias.zero_()
    stem.requires_grad_(False)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    """3 x 3 without bias; the first `inputs` outputs start as copies of the inputs."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:inputs])
    return conv


def _biased(width: int) -> nn.BatchNorm2d:
    """A batch norm whose scale stays 1."""
    norm = nn.BatchNorm2d(width, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


class _MaxPool(nn.Module):
    """The largest value of each channel. [N,C,H,W] → float32 [N,C]."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.amax(x, dim=(2, 3)).float()
