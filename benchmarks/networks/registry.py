"""The networks by name. NAME@200 is NAME with 200 trusted inputs to fit detectors on."""

from pathlib import Path

from benchmarks.networks.factory import FACTORY_NETWORKS
from benchmarks.networks.making import Network, fitted_on, under_test
from benchmarks.networks.patches import PATCH_NETWORKS
from benchmarks.networks.table import TABLE_NETWORKS
from benchmarks.networks.text import TEXT_NETWORKS
from benchmarks.networks.transfer import TRANSFER_NETWORKS
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.errors import expected

NETWORKS: dict[str, Network] = {
    **FACTORY_NETWORKS,
    **TRANSFER_NETWORKS,
    **TABLE_NETWORKS,
    **TEXT_NETWORKS,
    **PATCH_NETWORKS,
}
"""Every network that is made here."""

FIT_SIZES = (200, 500, 2000)
"""Trusted inputs to fit on, by which the battery shows how quality grows."""


def base(name: str) -> str:
    """NAME of NAME@200."""
    return name.partition("@")[0]


def fit_size(name: str) -> int | None:
    """200 of NAME@200; None where no size is said.

    Raises:
        ArgumentError: what is said is no number of inputs.
    """
    _, said, size = name.partition("@")
    if not said:
        return None
    if not size.isdigit() or int(size) < 1:
        raise expected("cases", "NAME or NAME@NUMBER, the number of trusted inputs to fit on", name)
    return int(size)


def loaded(name: str, folder: Path) -> ClassifierUnderTest:
    """The network NAME, with all its inputs to fit on."""
    return under_test(name, NETWORKS[name], folder)


def default_fit(name: str, classifier: ClassifierUnderTest) -> ClassifierUnderTest:
    """The network with as many inputs to fit on as it is measured with where nothing else is said."""
    return fitted_on(classifier, NETWORKS[name].fit, name)
