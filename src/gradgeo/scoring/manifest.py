"""What a run is: all that its rows depend on, so that parts of different runs never mix."""

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gradgeo._version import __version__
from gradgeo.classifier import fingerprint
from gradgeo.data.source import Source
from gradgeo.detector.detector import Detector
from gradgeo.scoring.metadata import QUANTILES, Metadata, counted_mistakes
from gradgeo.scoring.schema import VERSION

PREVIEWS = 64
"""Flagged inputs of a part that get a preview: a picture and a CSM."""


@dataclass(frozen=True)
class RunOptions:
    """What a run was asked for besides verdicts among all calibration inputs."""

    conditional: str | None = None
    """As in `Detector.predict`."""
    groups: tuple[str, ...] = ()
    """Columns of the data that make the groups of `Detector.predict`."""
    fdr: float | None = None
    """The false discovery rate for which there are to be q-values."""
    pictures: int = PREVIEWS
    """Flagged inputs of a part that get a picture and a CSM; with 0 trusted ones that are drawn get none either."""
    key: bytes | None = field(default=None, repr=False)
    """Of the hashes that stand in place of names; None where names stay."""

    def name(self, name: str) -> str:
        """What stands in the column `name`: itself, or 16 hexadecimal digits of HMAC-SHA256."""
        return name if self.key is None else hmac.new(self.key, name.encode(), "sha256").hexdigest()[:16]

    def error(self, error: str | None, name: str) -> str | None:
        """The text of an error, which may quote the name."""
        if error is None or self.key is None:
            return error
        for quoted in sorted({name, Path(name).name} - {""}, key=len, reverse=True):
            error = error.replace(quoted, self.name(name))
        return error

    @property
    def compared(self) -> bool:
        """Whether p-values are among inputs of one kind."""
        return self.conditional is not None or bool(self.groups)


NOTHING_MORE = RunOptions()


@dataclass(frozen=True)
class Manifest:
    """The settings of a run, and what every file of it states."""

    settings: dict[str, Any]
    """What must be the same for two parts to belong together, by the names that messages use."""

    metadata: Metadata

    @classmethod
    def of(cls, detector: Detector, source: Source, part_size: int, options: RunOptions = NOTHING_MORE) -> "Manifest":
        """The run that scores `source` by `detector`, with what `options` ask for.

        `batch_size` is no setting: it changes scores by rounding only, and a run that ran out of memory must be able
        to go on with smaller batches.
        """
        digest = detector.digest()
        settings = {
            "version": VERSION,
            "detector": digest,
            "model weights": fingerprint.weights_hash(detector.model),
            "data": source.spec,
            "content of the data": source.content_id,
            "preprocess": source.preprocess.as_dict(),
            "class names": list(source.classes),
            "start": source.start,
            "limit": source.limit,
            "time": source.time,
            "part size": part_size,
        }
        asked = {"columns kept": list(source.keep), "conditional": options.conditional, "groups": list(options.groups)}
        if options.pictures != PREVIEWS:
            settings["pictures"] = options.pictures
        if options.key is not None:  # a hash of it, so that another key is noticed
            settings["names"] = "hash " + hmac.new(options.key, b"gradgeo", "sha256").hexdigest()[:8]
        settings |= {name: value for name, value in (asked | {"fdr": options.fdr}).items() if value}
        own: dict[str, dict[str, int]] = {"class": {}, "group": {}}
        if options.compared and not (options.conditional and options.groups):
            by = "class" if options.conditional else "group"
            own[by] = {name: rate.calibration_size for name, rate in detector.false_alarm_rates(by).items()}
        metadata = Metadata(
            gradgeo=__version__,
            alpha=float(detector.alpha),
            confidence=None if detector.confidence is None else float(detector.confidence),
            class_names=tuple(str(name) for name in detector.notes.get("class_names") or source.classes),
            evidence=tuple(detector.evidence_),
            input_shape=tuple(detector.input_shape_),
            calibration_scores=np.quantile(detector.calibration_scores_, np.linspace(0, 1, QUANTILES)),
            calibration_size=detector.calibration_size_,
            mistakes=counted_mistakes(
                detector.mistake_p_values_, detector.settings.level.threshold(detector.calibration_size_)
            ),
            detector=digest,
            model=detector.notes.get("model"),
            data=source.spec,
            preprocess=source.preprocess.as_dict(),
            conditional=options.conditional,
            groups=options.groups,
            kept=source.keep,
            class_sizes=tuple(own["class"].values()),
            group_sizes=tuple(own["group"].items()),
            fdr=options.fdr,
            start=source.start,
            limit=source.limit,
            time=source.time,
            seed=int(detector.seed),
            part_size=part_size,
            run=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        )
        return cls(settings, metadata)

    def differences(self, settings: dict[str, Any]) -> list[str]:
        """The names of the settings that differ from those of another run."""
        names = dict.fromkeys([*self.settings, *settings])
        return [name for name in names if self.settings.get(name) != settings.get(name)]
