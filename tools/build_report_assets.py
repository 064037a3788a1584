"""Build what the report's page carries: the Vega runtime, its interpreter, the compiled charts and the licences.

    python tools/build_report_assets.py          # writes src/upweight/report/assets
    python tools/build_report_assets.py --check  # compares with what is there, writes nothing

Needs npm, altair and vl-convert. Versions and hashes of the scripts are pinned in tools/report_assets/package-lock.json,
which npm verifies; what was written is hashed in ``assets.json``, which the tests verify.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import vl_convert
from report_charts import INKS, charts

HERE = Path(__file__).resolve().parent
PINNED = HERE / "report_assets"
ASSETS = HERE.parent / "src" / "upweight" / "report" / "assets"
IMPORT = "import { ascending, isString, DisallowedObjectProperties } from 'vega-util';"
EXPORT = "export { expression as expressionInterpreter };"


def main(check: bool) -> int:
    """Fetch, compile, and write or compare."""
    with tempfile.TemporaryDirectory() as folder:
        made = build(installed(Path(folder)))
    made["assets.json"] = manifest(made)
    if check:
        stale = [name for name, text in made.items() if not same(name, text)]
        print(f"out of date: {', '.join(stale)}" if stale else "the assets are what their sources say")
        return int(bool(stale))
    ASSETS.mkdir(exist_ok=True)
    for name, text in made.items():
        (ASSETS / name).write_text(text, "utf-8")
        print(f"{len(text):>8,}  {name}")
    return 0


def same(name: str, text: str) -> bool:
    """True where the asset on disk is this one."""
    return (ASSETS / name).is_file() and (ASSETS / name).read_text("utf-8") == text


def installed(folder: Path) -> Path:
    """The pinned packages, fetched by npm, which refuses any with another hash than the lock's."""
    for path in PINNED.iterdir():
        shutil.copy(path, folder)
    subprocess.run(["npm", "ci", "--silent"], cwd=folder, check=True)
    return folder / "node_modules"


def build(modules: Path) -> dict[str, str]:
    """Name and text of every asset."""
    vega = (modules / "vega/build/vega.min.js").read_text("utf-8")
    interpreter = as_script((modules / "vega-interpreter/build/vega-interpreter.js").read_text("utf-8"))
    for text in (vega, interpreter):
        if "</script" in text.lower() or "<!--" in text:
            raise SystemExit("found markup in a script. Expected none, since scripts are written into the page.")
    specs = {name: json.loads(compiled(chart)) for name, chart in charts().items()}
    return {
        "vega.min.js": vega,
        "vega-interpreter.js": interpreter,
        "charts.json": json.dumps({"inks": INKS, "specs": specs}, separators=(",", ":"), sort_keys=True) + "\n",
        "LICENSES.txt": licences(modules),
    }


def compiled(chart: dict[str, object]) -> str:
    """A Vega-Lite chart as Vega, without the address of its schema: the page names no address."""
    spec = unread(vl_convert.vegalite_to_vega(chart))
    return json.dumps({key: value for key, value in spec.items() if key != "$schema"})


def unread(spec: Any) -> Any:
    """The same without roles for single marks: a screen reader is given the chart's description instead."""
    if isinstance(spec, list):
        return [unread(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    read = {key: unread(value) for key, value in spec.items()}
    for parts in ("marks", "axes", "legends"):
        read |= {parts: [part | {"aria": False} for part in read[parts]]} if parts in read else {}
    return read


def as_script(module: str) -> str:
    """The interpreter's module as a script that adds itself to the global ``vega``."""
    module = module.split("//# sourceMappingURL")[0]
    if module.count(IMPORT) != 1 or module.count(EXPORT) != 1:
        raise SystemExit("the interpreter's imports or exports have changed. Expected those named in this script.")
    head = "const { ascending, isString, DisallowedObjectProperties } = vega;"
    body = module.replace(IMPORT, head).replace(EXPORT, "vega.expressionInterpreter = expression;")
    return f"(function () {{\n'use strict';\n{body.strip()}\n}})();\n"


def licences(modules: Path) -> str:
    """The licence of every package that the scripts were made from."""
    lock = json.loads((PINNED / "package-lock.json").read_text("utf-8"))["packages"]
    parts = ["The report's scripts are made from these packages, under these licences.\n"]
    for place, entry in sorted(lock.items()):
        folder = modules.parent / place
        texts = [path for path in sorted(folder.glob("LICEN[SC]E*")) if path.is_file()]
        if place and texts:
            name = place.removeprefix("node_modules/")
            words = texts[0].read_text("utf-8").strip()
            parts.append(f"{'=' * 80}\n{name} {entry['version']} ({entry.get('license', 'see below')})\n\n{words}\n")
    return "\n".join(parts)


def manifest(made: dict[str, str]) -> str:
    """Versions, and the SHA-256 of every asset."""
    pinned = json.loads((PINNED / "package.json").read_text("utf-8"))["dependencies"]
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(made.items())}
    return json.dumps({"versions": pinned, "sha256": hashes}, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
