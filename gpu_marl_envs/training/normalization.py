"""Running means and variances of observations and returns, by which networks see numbers of about unit size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST = 10.0  # standard deviations; rarer inputs are clipped to it
EPSILON = 1e-8  # keeps what never varies from dividing by zero


class RunningNormalizer(nn.Module):
    """Shifts and scales by the mean and the standard deviation of all that it was shown.

    The statistics are buffers, so they are saved and loaded with the weights. Batches are merged by the formula of
    Chan, Golub and LeVeque (1979), which loses no precision however many there are. Before the first batch it changes
    nothing.

    Args:
        size: number of features.
    """

    mean: Tensor  # [size]
    variance: Tensor  # [size]
    count: Tensor  # of rows seen

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, rows: Tensor, weight: Tensor) -> None:
        """Takes rows into account.

        Args:
            rows: ``[N, size]``.
            weight: ``[N]``, 1 for rows that count and 0 for those that do not.
        """
        column = weight.unsqueeze(-1)
        counted = torch.where(column > 0, rows, 0.0)
        count = weight.sum()
        divisor = count.clamp(min=1)
        mean = counted.sum(0) / divisor
        variance = torch.where(column > 0, (rows - mean).square(), 0.0).sum(0) / divisor
        # The share of this batch in all rows: 0 for an empty one, which changes nothing; 1 for the first one.
        share = (count / (self.count + count).clamp(min=1)).to(mean.dtype)
        difference = mean - self.mean
        self.variance.add_(share * (variance - self.variance) + share * (1 - share) * difference.square())
        self.mean.add_(share * difference)
        self.count.add_(count)

    @property
    def deviation(self) -> Tensor:
        """The standard deviation ``[size]``."""
        return (self.variance + EPSILON).sqrt()

    def forward(self, rows: Tensor) -> Tensor:
        """The rows ``[..., size]`` in standard deviations from the mean, clipped."""
        return ((rows - self.mean) / self.deviation).clamp(-LARGEST, LARGEST)
