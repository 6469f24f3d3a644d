"""The paper's tables on digits and heartbeats: on its own network for MNIST, as it is and trained under attack."""

from benchmarks.page import Page
from benchmarks.paper import page_of
from benchmarks.shipped import Suite

SETUPS = ("mnist-madry", "mnist-madry_robust", "mnist", "ecg5000")


def run(suite: Suite) -> Page:
    """The page."""
    return page_of(suite, "The paper's tables on digits and heartbeats", SETUPS)
