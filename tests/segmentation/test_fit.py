"""A whole training: it stops early, keeps the best weights, and goes on where it was killed."""

import itertools

import pytest
import torch
from torch import nn

from ralx.segmentation import SegmenterTrainer, TrainingConfig
from ralx.segmentation.fit import fit
from ralx.support.files import RunError
from ralx.support.monitor import Monitor

DIVERGE = -1.0  # in the place of a mIoU


class Training:
    """Of at most five epochs: each adds 1 to the bias, and measures the next of `mious`."""

    def __init__(self, checkpoint, mious, patience, diverge_at=None):
        self.mious, self.diverge_at = iter(mious), diverge_at
        self.measured, self.rates, self.draws = [], [], []
        self.options = dict(checkpoint=checkpoint, patience=patience, max_epochs=5, monitor=Monitor())
        self.options |= dict(lr_option="source_lr", name="a training", key=("t",))

    def run(self, kill_at=None):
        """As in a new process; `kill_at`: the epoch that is not finished."""
        trainer = SegmenterTrainer(nn.Conv2d(3, 2, 4, stride=4), TrainingConfig(), lr=0.1, ignore_index=255)
        self.bias = trainer.segmenter.bias
        nn.init.zeros_(self.bias)

        def train(generator):
            if len(self.rates) == kill_at:
                raise KeyboardInterrupt
            if len(self.rates) == self.diverge_at:
                raise FloatingPointError("the segmenter has diverged")
            self.rates.append(trainer.lr)
            self.draws.append(torch.rand(1, generator=generator).item())
            nn.init.constant_(self.bias, self.bias[0].item() + 1)
            return 0.0

        def measure():
            self.measured.append(self.bias[0].item())
            if (miou := next(self.mious)) == DIVERGE:
                raise FloatingPointError("the segmenter has diverged")
            return miou

        return fit(trainer, train, measure, **self.options)

    def run_in_two_processes(self, kill_at):
        with pytest.raises(KeyboardInterrupt):
            self.run(kill_at)
        return self.run()


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(
    ("mious", "patience", "best", "epochs"),
    [
        ([0.1, 0.3, 0.25, 0.28, 0.9], 2, 0.3, 3),  # two epochs without a better one: never sees 0.9
        ([0.5, 0.2, 0.3, 0.4], 3, 0.5, 3),  # the untrained network was best
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 2, 0.6, 5),  # stopped by the cap
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 2, 0.5, 2),  # as good is no better
    ],
)
def test_fit_stops_early_and_keeps_the_best_weights(checkpoint, mious, patience, best, epochs, killed):
    training = Training(checkpoint, mious, patience)
    assert (training.run_in_two_processes(kill_at=1) if killed else training.run()) == best
    assert training.bias.tolist() == [mious.index(best)] * 2
    assert len(training.rates) == epochs
    assert len(set(training.draws)) == epochs, "each epoch has a random stream of its own"
    for before, after in itertools.pairwise(training.rates):
        assert after == pytest.approx(before * 0.998**2)


def test_fit_without_patience_trains_to_the_last_epoch_and_keeps_it(checkpoint):
    training = Training(checkpoint, [0.4] * 2, patience=None)
    assert training.run_in_two_processes(kill_at=3) == 0.4
    assert training.run() == 0.4, "once more when it is finished"
    assert training.bias.tolist() == [5, 5]
    assert set(training.measured) == {5}, "only the last epoch is measured"


@pytest.mark.parametrize(
    ("mious", "diverge_at", "message"),
    [
        ([DIVERGE], None, "a training: the .* diverged .before its first epoch"),
        ([0.0], 0, "source_lr: the segmenter has diverged .a training, epoch 1"),
        ([0.0, 0.0, DIVERGE], None, "source_lr: the .* diverged .a training, epoch 2"),
    ],
    ids=["start", "training", "measure"],
)
def test_a_training_that_diverges_names_its_learning_rate(checkpoint, mious, diverge_at, message):
    with pytest.raises(RunError, match=message):
        Training(checkpoint, mious, patience=5, diverge_at=diverge_at).run()
