"""Named data sets: where each one comes from, under which licence, and how it is made ready in a folder.

Each function is a source of the seam `source`: `fetch(root) -> Dataset`. It finds the set in `root`, else brings it
from the mirror (`INFLAME_MIRROR`), else from the network, and can be killed and called again at any moment.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import lzma
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from inflame import store
from inflame.artifact import fetch, listing, manifest, mirror, packed, survey, unpack
from inflame.errors import DataError, NetworkError
from inflame.records import Dataset, Fault, dumps

_MARK = "source.json"  # written last: the photos are complete


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a person should know of a data set before using it."""

    name: str
    licence: str
    source: str  # whom to cite, and the address


DIGITS = About(
    name="digits",
    licence="CC BY 4.0",
    source="E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 "
    "(its test part, inside scikit-learn)",
)
MNIST = About(
    name="mnist",
    licence="CC BY-SA 3.0",
    source="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, 1998",
)
FASHION_MNIST = About(
    name="fashion-mnist",
    licence="MIT (Zalando SE)",
    source="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv 1708.07747; github.com/zalandoresearch/fashion-mnist",
)
CIFAR10 = About(
    name="cifar10",
    licence="none stated; offered freely by its authors, who ask to be cited",
    source="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; cs.toronto.edu/~kriz",
)
CLOTHING = About(
    name="clothing",
    licence="CC0 1.0",
    source="A. Grigorev, K. Shangereyev, Tagias.com and 32 people; github.com/alexeygrigorev/clothing-dataset-small",
)
BUTTERFLIES = About(
    name="butterflies",
    licence="CC BY-NC 4.0; for education and research only",
    source="K. Pinson, The 2022 Dataset of Butterfly Mimics; github.com/KeithPinson/butterfly_mimics_2022_dataset",
)
FOWL = About(
    name="fowl",
    licence="photos of Open Images V5, listed there as CC BY 2.0",
    source="turkeys and chickens of the Azure Machine Learning examples (fowl_data.zip); "
    "A. Kuznetsova et al., The Open Images Dataset V4, 2020",
)

NEWSGROUPS = About(
    name="20newsgroups",
    licence="none stated; posts belong to their writers, the collection is passed around for research",
    source="K. Lang, NewsWeeder: Learning to Filter Netnews, ICML 1995; the by-date version of J. Rennie",
)
BBC_NEWS = About(
    name="bbc-news",
    licence="for research only; all rights in the articles are the BBC's",
    source="D. Greene, P. Cunningham, Practical Solutions to the Problem of Diagonal Dominance in Kernel Document "
    "Clustering, ICML 2006",
)

_NEWSGROUPS_TAR = fetch.Remote(
    name="20news-bydate.tar.gz",
    urls=(
        "https://ndownloader.figshare.com/files/5975967",
        "http://qwone.com/~jason/20Newsgroups/20news-bydate.tar.gz",
    ),
    sha256="8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610",
)
_BBC_ZIP = "http://mlg.ucd.ie/files/datasets/bbc-fulltext.zip"
_GITHUB = "https://codeload.github.com"
_RAW = "https://raw.githubusercontent.com"
_MNIST_PLACES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    f"{_RAW}/fgnt/mnist/master",
    f"{_RAW}/pmallari/MNIST/cffbed29f2a5bd3b662ffe9cea7c07129fdad5d2",
)
_MNIST_SUMS = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_FASHION_PLACES = (
    f"{_RAW}/zalandoresearch/fashion-mnist/b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
)
_FASHION_SUMS = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
_FASHION_CLASSES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
_CIFAR_PLACES = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
)
_CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
_CLOTHING_ZIP = f"{_GITHUB}/alexeygrigorev/clothing-dataset-small/zip/11961516512414bf9f6c150a832cfd21b54a6b54"
_BUTTERFLIES_ZIP = f"{_GITHUB}/rhiray1996/butterfly_yum_yuck/zip/8b4cfac05863a02c7d14875365cff2ba3abda3f7"
_BUTTERFLIES_CSV = tuple(
    f"{_RAW}/KeithPinson/butterfly_mimics_2022_dataset/{commit}/data/butterfly_mimics/images.csv"
    for commit in ("a9ce2c62028b54817839d4504ae84a867b7bc7c0", "bdf65830a539a961df410bc01e8349749dbd8099")
)
_BUTTERFLIES = {
    "black": "black_swallowtail",
    "monarch": "monarch",
    "pipevine": "pipevine_swallowtail",
    "spicebush": "spicebush_swallowtail",
    "tiger": "eastern_tiger_swallowtail",
    "viceroy": "viceroy",
}
_FOWL_ZIP = "https://azuremlexamples.blob.core.windows.net/datasets/fowl_data.zip"
_FOWL = {"chickens": "chicken", "turkeys": "turkey"}


def digits(root: Path) -> Dataset:
    """1,797 handwritten digits, 8 x 8 grey, without any network: they come inside scikit-learn."""
    return _pack(root, DIGITS, [str(digit) for digit in range(10)], packed.digits)


def mnist(root: Path) -> Dataset:
    """70,000 handwritten digits, 28 x 28 grey, 10,000 of them the official test split."""
    classes = [str(digit) for digit in range(10)]
    return _pack(
        root,
        MNIST,
        classes,
        lambda place: packed.idx(place, name="mnist", classes=classes, places=_MNIST_PLACES, sums=_MNIST_SUMS),
    )


def fashion_mnist(root: Path) -> Dataset:
    """70,000 pictures of clothes in ten kinds, 28 x 28 grey, 10,000 of them the official test split."""
    return _pack(
        root,
        FASHION_MNIST,
        _FASHION_CLASSES,
        lambda place: packed.idx(
            place, name="fashion-mnist", classes=_FASHION_CLASSES, places=_FASHION_PLACES, sums=_FASHION_SUMS
        ),
    )


def cifar10(root: Path) -> Dataset:
    """60,000 photos of ten kinds of things, 32 x 32 colour, 10,000 of them the official test split."""
    return _pack(
        root,
        CIFAR10,
        _CIFAR_CLASSES,
        lambda place: packed.cifar10(place, classes=_CIFAR_CLASSES, places=_CIFAR_PLACES, md5=_CIFAR_MD5),
    )


def clothing(root: Path) -> Dataset:
    """Photos of clothes in ten kinds, in the train, val and test folders of their repository."""
    return _photos(root, CLOTHING, lambda: _unzip(root, "clothing.zip", _CLOTHING_ZIP, by_split))


def butterflies(root: Path) -> Dataset:
    """Photos of six North American butterflies, some of which imitate others."""
    return _photos(root, BUTTERFLIES, lambda: _bring_butterflies(root))


def fowl(root: Path) -> Dataset:
    """Photos of turkeys and chickens, about 120 each for training and 100 each for validation."""

    def rename(name: str) -> str | None:
        place = by_split(name)
        for plural, kind in _FOWL.items():
            place = place and place.replace(f"/{plural}/", f"/{kind}/")
        return place

    return _photos(root, FOWL, lambda: _unzip(root, "fowl_data.zip", _FOWL_ZIP, rename))


def newsgroups20(root: Path) -> Dataset:
    """18,846 posts to 20 newsgroups with their headers, split by date: the later ones are the test split."""
    files = {split: root / f"{split}.jsonl" for split in ("train", "test")}
    if not all(path.is_file() for path in files.values()):
        with fetch.alone(root):
            for split, path in files.items():
                if not path.is_file():
                    _write_rows(path, _posts(root, split))
            shutil.rmtree(root / "download", ignore_errors=True)
    found: dict[str, list[Any]] = {name: [] for name in ("uri", "label", "split", "size", "mtime")}
    for split, path in files.items():
        changed = path.stat().st_mtime_ns
        with path.open("rb") as file:
            for number, line in enumerate(file):
                row = (f"{path.name}#{number}", json.loads(line)["label"], split, len(line), changed)
                for column, value in zip(found.values(), row, strict=True):
                    column.append(value)
    return Dataset(
        name=NEWSGROUPS.name,
        kind="text",
        classes=tuple(sorted(set(found["label"]))),
        root=str(root),
        version="",
        items=listing.table(**found),
        licence=NEWSGROUPS.licence,
        source=NEWSGROUPS.source,
    )


def bbc_news(root: Path) -> Dataset:
    """2,225 articles of 2004 and 2005 in five topics; 100 of them are there twice, and one isn't UTF-8."""

    def topics(name: str) -> str | None:
        parts = PurePosixPath(name).parts
        if not name.endswith(".txt") or len(parts) < 2 or any(map(listing.is_junk, parts)):
            return None
        split = listing.split_name(parts[-3], parts) if len(parts) > 2 else ""
        return "/".join([*([split] if split else []), *parts[-2:]])

    return _photos(root, BBC_NEWS, lambda: _unzip(root, "bbc-fulltext.zip", _BBC_ZIP, topics), topics)


def _posts(root: Path, split: str) -> Iterator[dict[str, str]]:
    """The posts of one split: from the mirror, or out of the archive of the original collection."""
    file = f"{split}.jsonl.xz"
    place = root / "download" / file
    if not mirror.copy("newsgroups20", root / "download", lambda name: name if name == file else None):
        with lzma.open(place, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)
        return
    archive = fetch.download(_NEWSGROUPS_TAR, root / "download" / _NEWSGROUPS_TAR.name)
    with tarfile.open(archive) as tar:
        for member in sorted((member for member in tar if member.isfile()), key=lambda member: member.name):
            folder, label, name = PurePosixPath(member.name).parts[-3:]
            stream = tar.extractfile(member) if folder.endswith(split) else None
            if stream is not None:
                yield {"id": name, "label": label, "text": stream.read().decode("latin-1")}


def _write_rows(path: Path, rows: Iterator[dict[str, str]]) -> None:
    with store.atomic(path) as part, part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def by_split(name: str) -> str | None:
    """`x/validation/shirt/1.jpg` → `val/shirt/1.jpg`; what is no picture of a class of a split is None."""
    parts = PurePosixPath(name).parts
    for index, part in enumerate(parts[:-2]):
        split = listing.split_name(part, parts)
        if split and listing.is_picture(parts[-1]) and not any(map(listing.is_junk, parts)):
            return "/".join([split, *parts[index + 1 :]])
    return None


# --- making ready -----------------------------------------------------------------------------------------


def _pack(root: Path, about: About, classes: list[str], read: Callable[[Path], packed.Arrays]) -> Dataset:
    """The packed set in `root`, made by `read` when it isn't there whole."""
    found = _ready(root)
    if found is not None:
        return found
    with fetch.alone(root):
        found = _ready(root)  # another process may have made it while we waited
        if found is None:
            made = packed.write(root, read(root))
            made = dataclasses.replace(
                made, name=about.name, classes=tuple(classes), licence=about.licence, source=about.source
            )
            manifest.save(dataclasses.replace(made, faults=survey.packed_faults(made)), root)
            shutil.rmtree(root / "download", ignore_errors=True)
            found = manifest.load(root)
    return found


def _ready(root: Path) -> Dataset | None:
    """The packed set in `root`, or None when something of it is missing."""
    if not (root / manifest.DESCRIPTION).is_file():
        return None
    try:
        found = dataclasses.replace(manifest.load(root), root=str(root))
        return found if len(packed.images(found)) == len(found) else None
    except DataError:
        return None


def _photos(
    root: Path, about: About, bring: Callable[[], None], rename: Callable[[str], str | None] = by_split
) -> Dataset:
    """The photos (or texts) in `root`, from the mirror, or else by `bring`. `rename`: see `mirror.copy`."""
    lost = ""
    if not _whole(root):
        with fetch.alone(root):
            if not _whole(root):
                lost = _gather(root, about, bring, rename)
    found = listing.folder(root)
    faults = (*found.faults, *([Fault(kind="incomplete", severity="warning", reason=lost)] if lost else []))
    return dataclasses.replace(found, name=about.name, licence=about.licence, source=about.source, faults=faults)


def _gather(root: Path, about: About, bring: Callable[[], None], rename: Callable[[str], str | None]) -> str:
    """Brings the photos and marks them complete. A set that was complete once and can't be mended is used as it is:
    then what to say about it is returned."""
    trouble = mirror.copy(about.name, root, rename)
    if trouble:
        try:
            bring()
        except NetworkError as error:
            if not (root / _MARK).is_file():
                raise fetch.unreachable(about.name, [trouble, error.where]) from error
            return f"some pictures of {about.name} are gone or cut short, and no place gives them again: {root}"
    shutil.rmtree(root / "download", ignore_errors=True)
    store.sweep(root)  # what an earlier, killed unpacking left
    files, size = _weight(root)
    store.write(root / _MARK, dumps({**dataclasses.asdict(about), "files": files, "bytes": size}))
    return ""


def _whole(root: Path) -> bool:
    """Whether every photo that the mark counts is still there, in its full length."""
    try:
        mark = json.loads((root / _MARK).read_text())
        return mark["files"] > 0 and (mark["files"], mark["bytes"]) == _weight(root)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _weight(root: Path) -> tuple[int, int]:
    """(number, bytes) of the pictures and texts below `root`."""
    kinds = listing.PICTURES | listing.TEXTS
    sizes = [path.stat().st_size for path in root.rglob("*") if path.suffix.lower() in kinds]
    return len(sizes), sum(sizes)


def _unzip(root: Path, file: str, url: str, rename: Callable[[str], str | None]) -> None:
    """Downloads a zip of photos and unpacks what `rename` keeps of it into `root`."""
    archive = fetch.download(fetch.Remote(name=file, urls=(url,)), root / "download" / file)
    try:
        unpack.unpack(archive, root, rename=rename)
    except DataError:
        archive.unlink(missing_ok=True)  # there is no checksum for it: the next try begins anew
        raise


def _bring_butterflies(root: Path) -> None:
    """The photos come from one repository, their names from the table of another."""
    remote = fetch.Remote(name="butterflies/images.csv", urls=_BUTTERFLIES_CSV)
    answers = fetch.download(remote, root / "download" / "images.csv")
    with answers.open(newline="", encoding="utf-8") as file:
        kinds = {row["image"]: _BUTTERFLIES[row["name"]] for row in csv.DictReader(file) if row["name"] in _BUTTERFLIES}

    def rename(name: str) -> str | None:
        path = PurePosixPath(name)
        labelled = path.parent.name == "images" and path.suffix == ".jpg" and path.stem in kinds
        return f"{kinds[path.stem]}/{path.name}" if labelled else None

    _unzip(root, "butterflies.zip", _BUTTERFLIES_ZIP, rename)
