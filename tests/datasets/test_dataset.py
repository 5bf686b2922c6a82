"""A data set in memory, or decoded per batch: subsets, threads, forked processes, copies."""

import copy
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
import torch

from ralx.datasets import CAMVID_CLASSES, CAMVID_PALETTE, PALETTES, DataError, SegmentationDataset, palette
from ralx.datasets.dataset import free_memory, in_threads

COUNT, SIZE = 6, (4, 5)


class CountingSource:
    """Images of one value each; remembers which were decoded, in order."""

    def __init__(self, names=tuple(f"image_{n}" for n in range(COUNT)), bad=None):
        self.names, self.image_size, self.bad, self.decoded = names, SIZE, bad, []

    def read(self, index):
        return self.read_image(index), self.read_label(index)

    def read_image(self, index):
        if index == self.bad:
            raise DataError(f"image_{index}.png: expected a whole image")
        self.decoded.append(index)
        return np.full((*SIZE, 3), 10 * index, np.uint8) + np.arange(3, dtype=np.uint8)

    def read_label(self, index):
        if index == self.bad:
            raise DataError(f"image_{index}.png: expected a whole label")
        return np.full(SIZE, index, np.uint8)

    def check(self, index):
        pass

    def fingerprint(self):
        return "these pixels"


def dataset(source=None, **options) -> SegmentationDataset:
    source = CountingSource() if source is None else source
    return SegmentationDataset(source, name="test", classes=CAMVID_CLASSES, ignore_index=11, **options)


@pytest.mark.parametrize("memory_limit", [None, 0])
def test_a_batch_holds_the_images_asked_for(memory_limit):
    data = dataset(memory_limit=memory_limit)
    index = torch.tensor([4, 0, 4])
    images, labels = data.batch(index)
    assert images.shape == (3, 3, *SIZE) and images.dtype == torch.uint8 and images.is_contiguous()
    assert labels.shape == (3, *SIZE) and labels.dtype == torch.uint8
    assert images[:, :, 0, 0].tolist() == [[40, 41, 42], [0, 1, 2], [40, 41, 42]]
    assert labels[:, 0, 0].tolist() == [4, 0, 4]
    assert torch.equal(data.images(index), images) and torch.equal(data.labels(index), labels)
    assert len(data) == COUNT and data.num_classes == 11 and data.image_size == SIZE
    assert data.batch(torch.tensor([], dtype=torch.int64))[0].shape == (0, 3, *SIZE)


def test_images_are_decoded_once_where_they_fit():
    source = CountingSource()
    data = dataset(source)
    for _ in range(3):
        data.batch(torch.arange(COUNT))
    data.subset(["image_2"]).images(torch.tensor([0]))
    data.to("cpu").labels(torch.tensor([1]))
    assert sorted(source.decoded) == list(range(COUNT))
    assert data.resident


def test_images_are_decoded_per_batch_where_they_do_not_fit():
    source = CountingSource()
    data = dataset(source, memory_limit=COUNT * SIZE[0] * SIZE[1] * 4 - 1)
    for _ in range(2):
        data.batch(torch.tensor([1, 2]))
    assert sorted(source.decoded) == [1, 1, 2, 2]
    assert not data.resident
    assert dataset(memory_limit=COUNT * SIZE[0] * SIZE[1] * 4).load().resident


@pytest.mark.parametrize("memory_limit", [None, 0])
def test_a_bad_file_is_found_at_the_first_use_of_any_image(memory_limit):
    data = dataset(CountingSource(bad=3), memory_limit=memory_limit)
    with pytest.raises(DataError, match=r"image_3\.png: expected a whole"):
        data.batch(torch.tensor([0]))


def test_a_subset_is_in_the_order_of_its_names_and_shares_the_pixels():
    source = CountingSource()
    data = dataset(source)
    part = data.subset(["image_5", "image_1", "image_5"], "part")
    assert part.names == ("image_1", "image_5") and part.name == "part" and len(part) == 2
    assert part.labels(torch.tensor([1, 0]))[:, 0, 0].tolist() == [5, 1]
    again = part.subset(torch.tensor([1]))
    assert again.names == ("image_5",) and again.labels(torch.tensor([0])).unique().tolist() == [5]
    assert data.names == source.names
    assert len(source.decoded) == COUNT


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["image_1", "nobody"], "part: image nobody is listed, but is none of test"),
        ([], "part: expected at least one image, found none"),
    ],
)
def test_a_subset_of_nothing_or_of_others_is_refused(chosen, message):
    with pytest.raises(DataError, match=message):
        dataset().subset(chosen, "part")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "test: expected at least one image, found none"),
        (("b", "a"), "test: expected sorted image names without duplicates"),
        (("a", "a"), "test: expected sorted image names without duplicates"),
        (("a", "caf\udce9"), r"test: expected image names in UTF-8, found 'caf.udce9'"),
    ],
)
def test_names_that_are_none_out_of_order_twice_or_not_in_utf_8_are_refused(names, message):
    with pytest.raises(DataError, match=message):
        dataset(CountingSource(names))


@pytest.mark.parametrize("index", [[COUNT], [-1], [[0, 1]]])
def test_an_index_outside_is_refused(index):
    with pytest.raises(ValueError, match=r"index: expected image indices \[n\] in 0\.\.5, got"):
        dataset().batch(torch.tensor(index))


def test_the_fingerprint_tells_data_apart():
    data = dataset()
    assert data.fingerprint() == dataset().fingerprint()
    other = CountingSource()
    other.fingerprint = lambda: "other pixels"
    assert data.fingerprint() != dataset(other).fingerprint()
    assert data.fingerprint() != data.subset(["image_0"]).fingerprint()


def test_every_class_has_a_colour_of_its_own():
    for classes in PALETTES:
        colours = palette(classes)
        assert colours.shape == (len(classes), 3) and colours.dtype == np.uint8
        assert len(np.unique(colours, axis=0)) == len(classes)
    assert tuple(palette(CAMVID_CLASSES)[3]) == CAMVID_PALETTE["road"] == (128, 64, 128)
    assert np.array_equal(dataset().palette, palette(CAMVID_CLASSES))


def test_an_unknown_class_list_has_no_colours():
    with pytest.raises(ValueError, match="classes: expected CAMVID_CLASSES or CITYSCAPES_CLASSES, got"):
        palette(("cat", "dog"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("memory_limit", [None, 0])
def test_batches_come_on_the_device(memory_limit):
    host = dataset(memory_limit=memory_limit)
    moved = host.to("cuda")
    assert moved.device.type == "cuda"
    images, labels = moved.batch(torch.tensor([3, 1]))
    assert images.device.type == labels.device.type == "cuda"
    assert torch.equal(images.cpu(), host.images(torch.tensor([3, 1])))
    # Subsets that move one by one share the pixels on the device.
    assert host.subset(["image_1"]).to("cuda")._storage is moved._storage


def test_half_of_the_free_memory_may_be_taken(monkeypatch):
    size = COUNT * SIZE[0] * SIZE[1] * 4
    for free, resident in ((2 * size, True), (2 * size - 1, False)):
        monkeypatch.setattr("ralx.datasets.dataset.free_memory", lambda device, free=free: free)
        assert dataset().load().resident == resident


def test_a_containers_limit_counts_as_free_memory(monkeypatch):
    assert 0 < free_memory(torch.device("cpu")) < 2**50
    monkeypatch.setattr("ralx.datasets.dataset._container_memory", lambda: 12345)
    assert free_memory(torch.device("cpu")) == 12345


def ends(child: int) -> int | None:
    """The exit status of a forked process; None if it has to be killed."""
    for _ in range(2000):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def in_fork(check) -> int | None:
    """0 where `check` is true in a forked process."""
    child = os.fork()
    if child == 0:
        passed = False
        try:
            passed = check()
        finally:
            os._exit(0 if passed else 1)
    return ends(child)


@pytest.mark.parametrize("memory_limit", [None, 0])
def test_a_forked_process_reads_what_its_parent_has_read(memory_limit):
    source = CountingSource()
    source.image_size = (120, 100)
    source.read_image = lambda index: np.full((120, 100, 3), 10 * index, np.uint8)
    source.read_label = lambda index: np.full((120, 100), index, np.uint8)
    data, threads = dataset(source, memory_limit=memory_limit), torch.get_num_threads()
    index = torch.tensor([4, 0, 4, 2])

    def right():
        images, labels = data.batch(index)
        return images.numpy()[:, 0, 0, 0].tolist() == [40, 0, 40, 20] and int(labels[3, 0, 0]) == 2

    torch.set_num_threads(2)
    try:
        torch.ones(1 << 17).exp()  # OpenMP's threads too are the parent's alone
        assert right() and in_fork(right) == 0 and right()
    finally:
        torch.set_num_threads(threads)


def test_a_process_may_fork_while_another_thread_decodes():
    source, parent = CountingSource(), os.getpid()
    started, go_on, read = threading.Event(), threading.Event(), source.read

    def slow(index):
        if os.getpid() == parent:
            started.set()
            go_on.wait(20)
        return read(index)

    source.read = slow
    data = dataset(source)
    loading = threading.Thread(target=data.load)
    loading.start()
    try:
        assert started.wait(20)
        assert in_fork(lambda: data.labels(torch.tensor([3])).numpy()[0, 0, 0] == 3) == 0
    finally:
        go_on.set()
        loading.join()
    assert data.resident


def test_workers_of_a_data_loader_read_what_does_not_fit():
    class Images(torch.utils.data.Dataset):
        data = dataset(memory_limit=0).load()

        def __len__(self):
            return COUNT

        def __getitem__(self, index):
            return self.data.images(torch.tensor([index]))[0]

    loader = torch.utils.data.DataLoader(Images(), num_workers=2, timeout=20)
    assert [int(image[0, 0, 0, 0]) for image in loader] == [10 * n for n in range(COUNT)]


@pytest.mark.parametrize("memory_limit", [None, 0])
def test_a_source_may_read_another_data_set(memory_limit):
    """With more images than threads, each of which waits for the other's first use."""

    sources = [CountingSource(tuple(f"image_{n:02d}" for n in range(40))) for _ in range(2)]
    inner, outer = (dataset(source, memory_limit=memory_limit) for source in sources)
    sources[0].read_image = lambda index: np.full((*SIZE, 3), index, np.uint8)
    sources[1].read_image = lambda index: 2 * inner.images([index])[0].permute(1, 2, 0).numpy()
    assert outer.images(torch.arange(40))[:, 0, 0, 0].tolist() == list(range(0, 80, 2))


def test_the_first_of_several_errors_is_raised():
    def fail_late(number):
        time.sleep(0.2 * (number == 0))
        raise DataError(f"image_{number}")

    with pytest.raises(DataError, match="image_0"):
        in_threads(fail_late, range(40))


def interrupted(number):
    if threading.current_thread() is threading.main_thread():
        signal.raise_signal(signal.SIGINT)


def failing(number):
    if number == 0:
        raise DataError("image_0.png: bad")


@pytest.mark.parametrize(("spoil", "error"), [(interrupted, KeyboardInterrupt), (failing, DataError)])
def test_nothing_more_is_decoded_after_an_interrupt_or_an_error(spoil, error):
    done = []

    def decode(number):
        spoil(number)
        time.sleep(0.01)
        done.append(number)

    with pytest.raises(error):
        in_threads(decode, range(500))
    time.sleep(0.05)
    assert len(done) < 100


def test_a_program_that_ends_does_not_wait_for_the_rest():
    """Where a daemon thread decodes: the threads that help it are not daemons."""

    def ended():
        decoding = threading.Thread(target=in_threads, args=(time.sleep, [0.05] * 5000), daemon=True)
        decoding.start()
        time.sleep(0.1)
        threading._shutdown()  # what the interpreter does first when it ends
        return decoding.is_alive()

    assert in_fork(ended) == 0


def test_no_thread_stays():
    before = threading.active_count()
    in_threads(str, range(100))
    assert threading.active_count() <= before


@pytest.mark.parametrize("duplicate", [lambda data: pickle.loads(pickle.dumps(data)), copy.deepcopy])
def test_a_data_set_can_be_copied_to_another_process(duplicate):
    data = dataset(CountingSource()).load().subset(["image_1", "image_3"])
    twin = duplicate(data)
    assert twin.names == data.names and twin.resident
    assert torch.equal(twin.images(torch.tensor([1])), data.images(torch.tensor([1])))
    assert twin.to("cpu")._storage is twin._storage
    lazy = duplicate(dataset(CountingSource(), memory_limit=0))
    assert lazy.labels(torch.tensor([5])).unique().tolist() == [5]


def test_another_default_device_changes_nothing():
    torch.set_default_device("meta")  # stands for "cuda"
    try:
        for memory_limit in (None, 0):
            data = dataset(memory_limit=memory_limit)
            images, labels = data.batch(torch.tensor([4, 0], device="cpu"))
            assert images[:, 0, 0, 0].tolist() == [40, 0] and labels[:, 0, 0].tolist() == [4, 0]
            part = data.subset(torch.tensor([1, 2], device="cpu")).subset(["image_2"])
            assert part.to("cpu").class_counts().tolist() == [[0, 0, SIZE[0] * SIZE[1], *[0] * 8]]
            assert data.labels([3]).device.type == part.images([0]).device.type == "cpu"
    finally:
        torch.set_default_device(None)
