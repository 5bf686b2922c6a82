"""The one table of the methods that are compared: how each chooses, N, how it is drawn, and a line of
help."""

from typing import NamedTuple

from ralx.acquisition.batch import BatchAcquisition, class_balanced, k_centre, stratified
from ralx.acquisition.scores import ACQUISITIONS, Acquisition, bald, entropy, uniform
from ralx.support.imports import import_callable


class Method(NamedTuple):
    """Chooses by the function that it has; by the learned policy, or by hidden labels, where it has none."""

    help: str
    colour: str = (
        "#CC79A7"  # of Okabe and Ito's colour-blind-safe palette; each method has its marker as well
    )
    marker: str = "v"
    score: Acquisition | None = None  # the highest of each pool is chosen
    batch: BatchAcquisition | None = None  # one of each pool is chosen, by what all candidates are
    pool_size: int | None = (
        10  # N, candidates in a pool, on D_V of CamVid (paper); none: all that is unlabelled
    )
    uses_policy: bool = False
    uses_dropout: bool = False


METHODS = {
    "ralis": Method("the learned policy", "#D55E00", "o", uses_policy=True),
    "entropy": Method("the largest sum of the pixels' entropy", "#0072B2", "s", entropy),
    "bald": Method("the largest sum of the pixels' BALD", "#009E73", "^", bald, uses_dropout=True),
    "uniform": Method("random", "#666666", "D", uniform, pool_size=50),
    "margin": Method("the smallest margins between two classes", "#56B4E9", "<", ACQUISITIONS["margin"]),
    "least-confidence": Method(
        "the least likely predictions", "#56B4E9", ">", ACQUISITIONS["least-confidence"]
    ),
    # RIPU is of Xie et al. 2022.
    "ripu": Method("impurity x entropy", "#0072B2", "P", ACQUISITIONS["ripu"]),
    "class-balanced": Method(
        "entropy x predicted classes / sqrt(their share of the known labels)",
        *("#E69F00", "p"),
        batch=class_balanced,
    ),
    "k-centre": Method("a batch far apart in class distribution", "#CC79A7", "h", batch=k_centre),
    "stratified": Method("random with a turn for every predicted class", "#B8A000", "d", batch=stratified),
    "ralis-all": Method(
        "the highest Q of all that is unlabelled", "#D55E00", "X", pool_size=None, uses_policy=True
    ),
    "cheat": Method(
        "a ceiling that sees the hidden labels: most mistaken pixels of all, weighted as in `reward`",
        *("#000000", "*"),
        pool_size=None,
    ),
}
PAPER_METHODS = ("ralis", "entropy", "bald", "uniform")


def method_of(name: str) -> Method:
    """The method of that name, or a user's own acquisition function by its import path,
    package.module:function. ValueError where there is no such function."""
    if ":" not in name:
        return METHODS[name]
    return Method("your own", score=import_callable("methods", name), uses_dropout=True)


def policy_methods(names: tuple[str, ...]) -> list[str]:
    """Those of `names` that choose by the learned policy."""
    return [name for name in names if name in METHODS and METHODS[name].uses_policy]
