"""One answer cut along the modules that hold the parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from upweight.errors import ConfigError, listing

if TYPE_CHECKING:
    import pandas as pd

    from upweight.influence.effects import Effects


@dataclass(frozen=True, repr=False)
class ModuleEffects:
    """First-order effects, one layer of numbers a module; they add up to the effects they were cut from.

        effect = Σ_module −(T H⁻¹)_module · C_module

    Attributes:
        values: (modules, m, k), in the unit of ``whole``; ``split["layer1"]`` is one module's Effects.
        modules: the names of the modules that hold the tracked parameters; '(model)' for the model's own.
        whole: the effects that were cut.
    """

    values: np.ndarray
    modules: tuple[str, ...]
    whole: Effects

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype) if copy else np.asarray(self.values, dtype=dtype)

    def __len__(self) -> int:
        return len(self.modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __getitem__(self, module: str) -> Effects:
        if module not in self.modules:
            raise ConfigError(
                f"by_module() found no module called {module!r}. Expected one of {listing(self.modules, 8)}; correct the name."
            )
        note = f"The part of module {module!r}"
        values = self.values[self.modules.index(module)]
        return replace(self.whole, values=values, notes=(*self.whole.notes, note), split=None)

    def __repr__(self) -> str:
        sizes = np.abs(self.values).sum((1, 2))
        shares = sizes / max(float(sizes.sum()), np.finfo(float).tiny)
        order = np.argsort(-shares, kind="stable")[:5]
        words = ", ".join(f"{self.modules[k]} {shares[k]:.0%}" for k in order)
        return f"ModuleEffects of {len(self.modules)} modules, by the size of their parts: {words}.\n{self.whole!r}"

    def to_pandas(self) -> pd.DataFrame:
        """A frame with (module, query) as index and train ids as columns."""
        import pandas as pd

        frames = [self[module].to_pandas() for module in self.modules]
        return pd.concat(frames, keys=list(self.modules), names=["module"])
