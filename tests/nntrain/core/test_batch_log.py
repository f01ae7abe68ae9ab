import pytest
import torch

from nntrain.core.batch_log import scalar_log


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025, 3000])
def test_a_log_keeps_all_scalars_in_order(n: int) -> None:
    log = scalar_log()
    for i in range(n):
        log.append(torch.tensor(float(i)))
    assert len(log) == n
    assert log.tensor().tolist() == list(range(n))
    log.append(torch.tensor(-1.0))
    assert (len(log), log.tensor()[-1].item()) == (n + 1, -1)


def test_records_can_be_added_to_a_loaded_log() -> None:
    log = scalar_log()
    log.load(torch.tensor([1.0, 2.0]))
    log.append(torch.tensor(3.0))
    assert log.tensor().tolist() == [1, 2, 3]
