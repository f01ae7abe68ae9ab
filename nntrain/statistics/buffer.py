"""A device buffer that is copied to the CPU many rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class RowBuffer:
    """Buffer of equally shaped rows on the device; copied to the CPU many rows at a time.

    Args:
        n_rows: number of rows in the device buffer. A full buffer is copied to the CPU in one
            transfer.
        shape: shape of a row.
        device: device of the buffer.
        finish: function that is called before rows are read, to fill rows that were committed
            before they were complete.
    """

    def __init__(
        self, n_rows: int, shape: Sequence[int], device: torch.device, finish: Callable[[], None]
    ) -> None:
        self._rows: Tensor | None = torch.empty(n_rows, *shape, device=device)
        self._finish = finish
        self._n = 0
        self._blocks = [torch.empty(0, *shape)]

    def next_row(self) -> Tensor:
        """Returns the next row to write, filled with NaN; call `commit` to keep the row."""
        assert self._rows is not None
        if self._n == len(self._rows):
            self._read_back()
        return self._rows[self._n].fill_(torch.nan)

    def commit(self) -> None:
        """Adds the row that `next_row` returned last to the buffer."""
        self._n += 1

    def _read_back(self) -> None:
        if self._rows is not None and self._n:
            self._finish()
            # Clone the rows, because later rows overwrite them and cpu() does not copy CPU tensors.
            self._blocks.append(self._rows[: self._n].clone().cpu())
            self._n = 0

    def rows(self, start: int = 0) -> Tensor:
        """Returns all rows from index `start` onward: float32, `(rows, *shape)`, on the CPU.

        Rows that are still on the device are copied first. `start` must be 0 or the total number of
        rows at an earlier call.
        """
        self._read_back()
        wanted, seen = self._blocks[:1], 0
        for block in self._blocks:
            if seen >= start:
                wanted.append(block)
            seen += len(block)
        return torch.cat(wanted)

    def newest(self) -> Tensor | None:
        """Returns the newest row `(*shape)` on the CPU, or `None` if there are no rows.

        Only this row is copied from the device.
        """
        if self._rows is not None and self._n:
            self._finish()
            return self._rows[self._n - 1].clone().cpu()
        return self._blocks[-1][-1] if len(self._blocks) > 1 else None

    def close(self) -> None:
        """Copies all rows to the CPU and frees the device memory."""
        self._read_back()
        self._rows = None
