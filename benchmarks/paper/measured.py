"""A set-up with the ten statistics of all its inputs."""

from dataclasses import dataclass
from functools import cached_property

from benchmarks.paper import causes
from benchmarks.paper.causes import Caused
from benchmarks.paper.figures import Choice, Row, row
from benchmarks.paper.settings import Statistics, statistics
from benchmarks.paper.setups import Case
from gradgeo._typing import Array
from gradgeo.bench.scenarios import Task


@dataclass(frozen=True)
class Measured:
    """What is known of a set-up; everything is cached on disk, so that a run that was killed goes on."""

    case: Case
    causes: tuple[str, ...]

    @cached_property
    def inputs(self) -> dict[str, Caused]:
        """The inputs of each cause that has any."""
        found = {cause: causes.inputs(self.case, cause) for cause in self.causes}
        return {cause: each for cause, each in found.items() if len(each.x) > 1}

    @cached_property
    def by_cause(self) -> dict[str, Statistics]:
        """Of each cause, after those of the trusted inputs."""
        classifier = self.case.classifier
        trusted = Task(classifier, 2 * self.case.suite.inputs).x
        return {
            "trusted": statistics(classifier, trusted),
            **{cause: statistics(classifier, each.x) for cause, each in self.inputs.items()},
        }

    @cached_property
    def fitted_on(self) -> dict[str, Statistics]:
        """Of the inputs that detectors are fitted on, by kind."""
        return {kind: statistics(self.case.classifier, x) for kind, x in self.case.fitted_on.items()}

    def scores(self, choice: Choice, others: dict[str, Statistics] | None = None) -> dict[str, Array]:
        """Outlier scores by cause, or of `others`."""
        classes = self.case.classifier.logits.shape[1]
        known = self.by_cause if others is None else others
        return choice.scores(self.fitted_on, known, classes, self.case.setup.bins)

    def row(self, choice: Choice) -> Row:
        """The figures of a detector."""
        if choice not in self._rows:
            self._rows[choice] = row(self.scores(choice), causes.POOLED)
        return self._rows[choice]

    @cached_property
    def _rows(self) -> dict[Choice, Row]:
        return {}
