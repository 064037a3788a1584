"""Shape annotations are checked while the tests run, and only then; not in the facade, which answers wrong types in words."""

from jaxtyping import install_import_hook

ROOMS = [
    "curvature",
    "evaluate",
    "fitted",
    "gradients",
    "inference",
    "influence",
    "linop",
    "objective",
    "questions",
    "router",
    "solve",
    "space",
    "store",
    "tiles",
]
install_import_hook([f"upweight.{room}" for room in ROOMS], "beartype.beartype")
