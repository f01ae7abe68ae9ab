"""A device buffer that is read back many rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class RowBuffer:
    """Rows of one shape, written one at a time on the device and read back many at a time.

    Args:
        n_rows: number of rows on the device; a full buffer is copied to the host at once.
        shape: shape of a row.
        device: device of the buffer.
        finish: called before rows are read, to complete rows that were counted but not yet written.
    """

    def __init__(
        self, n_rows: int, shape: Sequence[int], device: torch.device, finish: Callable[[], None]
    ) -> None:
        self._rows: Tensor | None = torch.empty(n_rows, *shape, device=device)
        self._finish = finish
        self._n = 0
        self._blocks = [torch.empty(0, *shape)]

    def next_row(self) -> Tensor:
        """Returns the row to write next, filled with NaN; `commit` counts it."""
        assert self._rows is not None
        if self._n == len(self._rows):
            self._read_back()
        return self._rows[self._n].fill_(torch.nan)

    def commit(self) -> None:
        """Counts the row that was written last."""
        self._n += 1

    def _read_back(self) -> None:
        if self._rows is not None and self._n:
            self._finish()
            # On the CPU, .cpu() does not copy, and the rows are about to be overwritten.
            self._blocks.append(self._rows[: self._n].clone().cpu())
            self._n = 0

    def rows(self, start: int = 0) -> Tensor:
        """Returns the rows from index `start` on `(rows, *shape)`, float32, on the CPU.

        Reads the device. `start` must be the number of rows at an earlier read.
        """
        self._read_back()
        wanted, seen = self._blocks[:1], 0
        for block in self._blocks:
            if seen >= start:
                wanted.append(block)
            seen += len(block)
        return torch.cat(wanted)

    def newest(self) -> Tensor | None:
        """Returns the newest row `(*shape)`, on the CPU; `None` if there are no rows.

        No other row is read from the device.
        """
        if self._rows is not None and self._n:
            self._finish()
            return self._rows[self._n - 1].clone().cpu()
        return self._blocks[-1][-1] if len(self._blocks) > 1 else None

    def close(self) -> None:
        """Reads all rows back and frees the device memory."""
        self._read_back()
        self._rows = None
