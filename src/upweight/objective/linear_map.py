"""The torch form of a linear estimator: η = Wx + b, one output coming back as (b,)."""

from torch import nn
from torch.nn import functional as F

from upweight._typing import Float, Tensor


class LinearMap(nn.Linear):
    """``nn.Linear`` built from fitted coefficients (o, i) and intercepts (o,) or none."""

    def __init__(self, coefficients: Float[Tensor, "o i"], intercepts: Float[Tensor, "o"] | None) -> None:
        super().__init__(
            coefficients.shape[1],
            coefficients.shape[0],
            bias=intercepts is not None,
            dtype=coefficients.dtype,
            device="meta",
        )
        self.weight = nn.Parameter(coefficients.clone())
        self.bias = None if intercepts is None else nn.Parameter(intercepts.clone())  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, input: Tensor) -> Tensor:
        outputs = F.linear(input, self.weight, self.bias)
        return outputs.squeeze(1) if self.out_features == 1 else outputs
