import pytest
import torch

from ralx.support.devices import find_device, to_device


def test_devices_are_found_by_name():
    assert find_device("cpu").type == "cpu"
    for name in ("quantum", "meta"):
        with pytest.raises(ValueError, match=f"device: must be auto, cpu, cuda or cuda:N, got '{name}'"):
            find_device(name)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device: this machine has 0 CUDA devices, got 'cuda:3'"):
            find_device("cuda:3")


def test_a_tensor_that_is_there_stays_the_same():
    tensor = torch.arange(5)
    assert to_device(tensor, torch.device("cpu")) is tensor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_does_not_wait_for_what_it_sends():
    tensor = torch.arange(5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        sent = to_device(tensor, torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sent.is_cuda and torch.equal(sent.cpu(), tensor)
