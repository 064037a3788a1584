"""Commands that need no run: the demonstration, and what this machine has."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from upweight.cli.talk import AsJson, answer, guarded, say

EXTRAS = {
    "sklearn": ("scikit-learn", "skops"),
    "statsmodels": ("statsmodels",),
    "hf": ("transformers", "datasets", "accelerate", "peft"),
    "plot": ("matplotlib",),
    "images": ("pillow",),
    "arrow": ("pyarrow",),
    "xarray": ("xarray",),
    "dask": ("distributed",),
    "ray": ("ray",),
}
"""Optional libraries by the extra of pyproject.toml that installs them."""

CORE = ("torch", "numpy", "scipy", "pandas", "safetensors", "jinja2", "typer", "rich")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(epilog="Example: upweight demo --out .")(demo)
    app.command(epilog="Example: upweight doctor --json")(doctor)


@guarded
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html.")] = Path("."),
    seed: Annotated[int, typer.Option(help="Seed of the split and of the planted labels.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit bundled real digits, find planted label errors, verify by refitting, write report.html."""
    from upweight.demo import PLANTED, REFITS, run_demo

    say(f"Fitting real digits with {PLANTED:.0%} wrong labels, then leaving {REFITS} of them out for real …")
    found = run_demo(out, seed, None)
    answer(dataclasses.asdict(found), as_json, lambda: str(found))


@guarded
def doctor(as_json: AsJson = False) -> None:
    """What this machine has: versions, cores, memory, disk, optional libraries."""
    found = examined()
    answer(found, as_json, lambda: _table(found))


def examined() -> dict[str, Any]:
    """Versions, and what there is of cores, memory and disk."""
    import torch

    extras = {extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()}
    return {
        "python": platform.python_version(),
        "upweight": _version("upweight"),
        "core": {name: _version(name) for name in CORE},
        "extras": extras,
        "missing": [extra for extra, names in extras.items() if None in names.values()],
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "free_disk_gib": round(shutil.disk_usage(".").free / 2**30, 1),
        "accelerator": str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else None,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _table(found: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("upweight", f"{found['upweight']} on Python {found['python']}")
    table.add_row(
        "machine", f"{found['cores']} cores, {found['memory_gib']} GiB memory, {found['free_disk_gib']} GiB free disk"
    )
    table.add_row("accelerator", found["accelerator"] or "none")
    table.add_row("core", ", ".join(f"{name} {version}" for name, version in found["core"].items()))
    for extra, names in found["extras"].items():
        there = ", ".join(f"{name} {version or 'missing'}" for name, version in names.items())
        table.add_row(extra, there if extra not in found["missing"] else f"{there}: pip install 'upweight\\[{extra}]'")
    return table
