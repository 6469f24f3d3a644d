"""A detector on a site of its own: whether its rates hold there, and a new calibration set: check, recalibrate."""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradgeo._files import atomic_stream, check_writable, refuse_source
from gradgeo.cli.console import print_pairs
from gradgeo.cli.option_groups import AskedOptions, PreparationOptions, grouped
from gradgeo.cli.options import (
    AsJson,
    BatchSize,
    DataSpec,
    DetectorPath,
    Groups,
    Label,
    Limit,
    Workers,
    columns_of,
    fraction,
    keys_of,
    load_detector,
    names,
)
from gradgeo.cli.record import data_record
from gradgeo.cli.single import detector_and_preparation
from gradgeo.errors import DataError, listed, warn

if TYPE_CHECKING:
    from gradgeo.data import Source
    from gradgeo.detector.detector import Detector
    from gradgeo.detector.file.serialization import Contents

EXCEEDED, TOO_FEW = 3, 4
"""Exit codes of `check`: a stated rate does not hold; too few inputs to tell."""


@dataclass(frozen=True)
class SiteOptions:
    """What `check` and `recalibrate` are told of the data of a site."""

    labels: Annotated[
        bool, typer.Option("--labels", help="Count right predictions only, by the labels of the data. Else all inputs.")
    ] = False
    groups: Groups = None
    decisions: Annotated[
        Path | None, typer.Option("--decisions", help="What a person decided in the review queue of a report, .json.")
    ] = None
    limit: Limit = None
    label: Label = None
    batch_size: BatchSize = 64
    workers: Workers = 1


@grouped
def check(
    file: DetectorPath,
    data: Annotated[str | None, typer.Option("--data", "-d", help="Data of the site; or pass --decisions.")] = None,
    *,
    asked: AskedOptions,
    given: SiteOptions,
    preparation: PreparationOptions,
    level: Annotated[str, typer.Option(help="Chance of saying that a rate is exceeded where all hold.")] = "5%",
    must_see: Annotated[
        str | None, typer.Option(help="A rate that must be seen, as 10%; default thrice the stated one.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A page to write, .html, or .json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Test whether the stated false-alarm rates hold on the data of a site: of all, each class, each group.

    Exit code 0: nothing speaks against it; 3: one is exceeded; 4: too few inputs to tell.

    Example: gradgeo check digits.gradgeo -m digits -d digits/test --labels -o check.html
    """
    from gradgeo.detector.file import serialization
    from gradgeo.detector.fit.data_record import today
    from gradgeo.scoring.decisions import Decisions
    from gradgeo.scoring.site_check import SiteCheck, check_decisions, in_words
    from gradgeo.scoring.site_check import check as check_site

    decisions = given.decisions
    if (data is None) == (decisions is None):
        raise typer.BadParameter("pass either --data or --decisions")
    if out is not None:
        _check_out(out, data)
    options: dict[str, Any] = {"level": fraction("--level", level), "must_see": fraction("--must-see", must_see)}
    contents = serialization.read(file, sha256=asked.sha256)
    made = {"file": file.name, "SHA-256 of the file": contents.sha256}
    if decisions is not None:
        detector = load_detector(contents, asked.model, asked.weights, asked.device)
        found: SiteCheck = check_decisions(detector, Decisions.read(decisions), **options)
        made["decisions"] = decisions.name
    else:
        assert data is not None
        site = Site(contents, data, names(given.groups), given.labels)
        detector = site.open(asked, given, preparation)
        found = site.run("checking", lambda loader, kinds: check_site(detector, loader, groups=kinds, **options))
        made |= {"data": data, "SHA-256 of its inputs and labels": site.items.sha256 or ""}
    made |= {"date": today(), "command": shlex.join(["gradgeo", *sys.argv[1:]])}
    document = json.dumps({"made": made, **found.as_dict()}, indent=1)
    if out is not None:
        _write(out, document, found, data or str(decisions), made)
    if as_json:
        typer.echo(document)
    else:
        exceeded = {f"{rate.by} {rate.name}": in_words(rate) for rate in found.exceeded if rate.by != "all"}
        print_pairs(
            {
                "verdict": found.verdict,
                "inputs": found.inputs,
                "left out, misclassified": found.misclassified,
                "left out, unusable": found.unusable,
                "left out, copies": found.copies or None,
                "flagged": f"{found.rates[0].flagged} of {found.rates[0].judged}",
                "stated": str(found.rates[0].stated),
                "p": f"{found.rates[0].p:.3g}",
                "would have seen": _seen(found.rates[0].smallest_seen),
                "exceeded": exceeded or None,
                "written to": out,
            }
        )
    if found.verdict != "not exceeded":
        raise typer.Exit(EXCEEDED if found.verdict == "exceeded" else TOO_FEW)


@grouped
def recalibrate(
    file: DetectorPath,
    data: DataSpec,
    out: Annotated[Path, typer.Option("--out", "-o", help="The new detector file to write.")],
    why: Annotated[str, typer.Option(help="Why, which the new file keeps: another scanner, a new season.")],
    asked: AskedOptions,
    given: SiteOptions,
    preparation: PreparationOptions,
) -> None:
    """Calibrate a detector anew on the data of a site: same scorer, other p-values. The new file names its parent.

    With --decisions only inputs that a person agreed with calibrate, drawn so that all had the same chance.

    Example: gradgeo recalibrate digits.gradgeo -m digits -d digits/test --labels --why "ward 3" -o ward-3.gradgeo
    """
    from gradgeo.detector.file import serialization
    from gradgeo.scoring.decisions import Decisions

    decisions = given.decisions
    refuse_source(out, data)
    refuse_source(out, file)
    check_writable(out)
    contents = serialization.read(file, sha256=asked.sha256)
    site = Site(contents, data, names(given.groups), given.labels)
    parent = site.open(asked, given, preparation)
    if decisions is not None:
        if given.labels or given.groups:
            raise typer.BadParameter("--decisions takes the place of --labels, and knows no --groups")
        agreed = Decisions.read(decisions)
        agreed.require(parent.digest())
        x = site.inputs(agreed.agreed().tolist(), parent.input_shape_)
        new = parent.recalibrate(x, why=why)
    else:
        new = site.run("recalibrating", lambda loader, kinds: parent.recalibrate(loader, groups=kinds, why=why))
    notes = {name: value for name, value in new.notes.items() if name != "groups"}
    if site.groups:
        notes["groups"] = list(site.groups)
    notes["recalibration"] = {
        "command": shlex.join(["gradgeo", *sys.argv[1:]]),
        "parent": {"file": file.name, "sha256": contents.sha256, "digest": parent.digest()},
        "data": {"name": data} if decisions is not None else data_record(data, site.items, site.source.classes),
        "decisions": None if decisions is None else decisions.name,
    }
    new.save(out, notes=notes)
    print_pairs(
        {
            "parent": parent.digest()[:16],
            "calibrated on": new.calibration_size_,
            "false alarms": new.false_alarm_rate_,
            "left out, misclassified": new.misclassified_,
            "left out, unusable": new.unusable_ + len(site.items.skipped),
            "written to": out,
        }
    )


@dataclass
class Site:
    """The data of a site, opened as a detector file asks for it."""

    contents: "Contents"
    data: str
    groups: tuple[str, ...]
    """Columns that make the groups."""
    labels: bool
    source: Any = None
    items: Any = None

    def open(self, asked: AskedOptions, given: SiteOptions, preparation: PreparationOptions) -> "Detector":
        """Open the data for the detector, which is loaded and returned.

        Raises: DataError where labels are asked for and it has none of the detector's classes.
        """
        from gradgeo.data import ReadableItems, open_source

        detector, preprocess = detector_and_preparation(self.contents, asked, preparation)
        detector.batch_size = given.batch_size
        classes = tuple(map(str, self.contents.notes.get("class_names") or ()))
        source: Source = open_source(
            self.data, preprocess=preprocess, class_order=classes, columns=columns_of(self.contents, self.data),
            keep=self.groups, start=asked.start, limit=given.limit, data_root=asked.data_root, label=given.label,
            streaming=asked.stream, keys=keys_of(self.contents, self.data, asked.keys),
        )  # fmt: skip
        source.match(tuple(self.contents.fitted["input_shape"]))
        if self.labels:
            if not source.labelled:
                raise DataError(f"--labels: {self.data} has none. Leave the option out to count all inputs.")
            own = source.own_classes
            if classes and own and not set(own) & set(classes):
                raise DataError(
                    f"--labels: the labels of {self.data} are of another set: {listed(own)}. The detector's are "
                    f"{listed(classes)}."
                )
        items: ReadableItems = ReadableItems(
            source, batch_size=given.batch_size, workers=given.workers, labels=self.labels
        )
        self.source, self.items = source, items
        return detector

    def run(self, what: str, use: Any) -> Any:
        """`use` of a loader of the readable items and their groups, with a bar, and what there is to warn of."""
        from gradgeo.detector.fit.progress import progress

        with progress(what, self.source.size) as advance:
            self.items.progress = advance
            answer = use(self.items.loader(), self.items.groups(self.groups))
        if self.items.skipped:
            first = self.items.skipped[0]
            warn(
                f"{len(self.items.skipped)} of {self.items.items} items cannot be read and were left out; the first: "
                f"{first.name}: {first.error}"
            )
        record = self.contents.fitted.get("record") or self.contents.notes.get("record")
        fitted = record.get("data") if isinstance(record, dict) else None
        if self.items.sha256 and isinstance(fitted, dict) and fitted.get("sha256") == self.items.sha256:
            raise DataError(
                f"{self.data} holds the very inputs that the detector was fitted on: on them no rate can be checked, "
                "and none may calibrate it. Pass data of the site that fit was not given."
            )
        return answer

    def inputs(self, indices: list[int], shape: tuple[int, ...]) -> Any:
        """The inputs at some positions of the data (N, *input); those that cannot be read are left out, and said."""
        import torch

        from gradgeo.cli.options import item_at
        from gradgeo.scoring import checked

        read = [checked(item_at(self.source, str(index - self.source.start)), shape) for index in indices]
        bad = [item for item in read if item.x is None]
        if bad:
            warn(f"{len(bad)} of {len(read)} items cannot be read; the first: {bad[0].name}: {bad[0].error}")
        found = [item.x for item in read if item.x is not None]
        return torch.stack(found) if found else torch.empty(0, *shape)


def _seen(rate: float | None) -> str:
    return "no rate at all" if rate is None else f"{rate:.1%} or more"


def _check_out(out: Path, data: str | None) -> None:
    if out.suffix not in (".html", ".json"):
        raise typer.BadParameter(f"--out ends in .html or .json, got {out}")
    if data is not None:
        refuse_source(out, data)
    check_writable(out)


def _write(out: Path, document: str, found: Any, name: str, made: dict[str, str]) -> None:
    from gradgeo.report import check_page

    text = document if out.suffix == ".json" else check_page.html(found, name=name, made=made)
    with atomic_stream(out) as stream:
        stream.write(text.encode())
