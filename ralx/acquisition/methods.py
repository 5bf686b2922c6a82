"""The one table of the methods that are compared: how each chooses, how many candidates it sees, how it
looks."""

from typing import NamedTuple

from ralx.acquisition.batch import BatchAcquisition, class_balanced, k_centre, stratified
from ralx.acquisition.scores import Acquisition, bald, entropy, score_sum, uniform
from ralx.support.imports import import_callable


class Method(NamedTuple):
    """A method chooses by the function that it has; without one, by the learned policy or by hidden
    labels."""

    help: str
    colour: str = ""  # in pictures: of Okabe and Ito's palette, which the colour-blind can tell apart
    marker: str = ""
    score: Acquisition | None = None  # the highest of each pool is chosen
    batch: BatchAcquisition | None = None  # one of each pool is chosen, by what all candidates are
    pool_size: int = 10  # N on D_V of CamVid (paper)
    sees_all: bool = False  # the method sees no pools, but all that is unlabelled
    uses_policy: bool = False
    uses_dropout: bool = False  # in MC passes


METHODS = {
    "ralis": Method("the learned policy", "#D55E00", "o", uses_policy=True),
    "entropy": Method("the largest sum of the pixels' entropies", "#0072B2", "s", entropy),
    "bald": Method("the largest sum of the pixels' BALD", "#009E73", "^", bald, uses_dropout=True),
    "uniform": Method("random", "#666666", "D", uniform, pool_size=50),
    "margin": Method("the smallest margins between two classes", "#56B4E9", "<", score_sum("margin")),
    "least-confidence": Method("the least likely classes", "#56B4E9", ">", score_sum("least_confidence")),
    # RIPU is of Xie et al. 2022.
    "ripu": Method("impurity x entropy", "#0072B2", "P", score_sum("impurity")),
    "class-balanced": Method(
        help="entropy x predicted classes / sqrt(their share of the known labels)",
        colour="#E69F00",
        marker="p",
        batch=class_balanced,
    ),
    "k-centre": Method("a batch far apart in class distribution", "#CC79A7", "h", batch=k_centre),
    "stratified": Method("random, a turn for each predicted class", "#B8A000", "d", batch=stratified),
    "ralis-all": Method("the policy's highest Q of all", "#D55E00", "X", uses_policy=True, sees_all=True),
    "cheat": Method(
        help="a ceiling that sees hidden labels: the most mistaken pixels of all, weighted as in `reward`",
        colour="#000000",
        marker="*",
        sees_all=True,
    ),
}
ACQUISITIONS = {name: method.score for name, method in METHODS.items() if method.score}
BATCH_ACQUISITIONS = {name: method.batch for name, method in METHODS.items() if method.batch}
PAPER_METHODS = ("ralis", "entropy", "bald", "uniform")


def method_of(name: str) -> Method:
    """The method of that name, or a user's own acquisition function by its import path,
    `package.module:function`. ValueError where there is no such function."""
    if ":" not in name:
        return METHODS[name]
    return Method("your own", score=import_callable("methods", name), uses_dropout=True)


def uses_policy(name: str) -> bool:
    """Whether the method of that name chooses by the learned policy."""
    return name in METHODS and METHODS[name].uses_policy
