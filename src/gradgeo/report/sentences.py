"""What a summary says in plain words."""

from collections.abc import Sequence

import numpy as np

from gradgeo.detector.calibration.conformal import FalseAlarmRate
from gradgeo.report.drift import LEVEL, expected_share
from gradgeo.report.html.numbers import number, percent
from gradgeo.report.summary import Summary
from gradgeo.report.trend import Window, usual_inputs, usual_quartiles


def headline(summary: Summary) -> str:
    """How many were trusted."""
    if not summary.rows:
        return "The file has no rows: there is nothing to report."
    parts = []
    if summary.unjudged:
        each = number(summary.unjudged) if summary.judged else "Not one"
        verb = "could not be judged" if summary.judged else "could be judged"
        parts.append(f"{each} of {_inputs(summary.rows)} {verb}.")
    if summary.judged:
        share = percent(summary.trusted / summary.judged)
        what = f"{number(summary.trusted)} of {number(summary.judged)} predictions are trusted ({share} %)"
        parts.insert(0, f"{what}, {number(summary.flagged) if summary.flagged else 'none'} flagged.")
    return " ".join(parts)


def alarms(summary: Summary) -> str:
    """Whether as many are flagged as false alarms explain."""
    metadata = summary.metadata
    if not summary.judged:
        return ""
    rate = metadata.false_alarm_rate
    if metadata.threshold is None or rate is None:
        return "The file does not state its false-alarm rate and calibration, so what chance explains is not known."
    mean, share = metadata.threshold, summary.flagged / summary.judged
    low, high = expected_share(summary.judged, mean, rate.calibration_size, LEVEL)
    usual = (
        f"If every input were trustworthy, about {percent(mean)} % would be flagged, and with "
        f"{number(rate.calibration_size)} calibration inputs anything from {percent(low)} to {percent(high)} % "
        f"would be chance ({percent(1 - LEVEL).removesuffix('.0')} %)."
    )
    if share > high:
        return f"{usual} {percent(share)} % are: more than false alarms explain."
    if share < low:
        return f"{usual} Only {percent(share)} % are: these inputs are more ordinary than the calibration inputs were."
    return f"{usual} {percent(share)} % are: no more than false alarms explain."


def stated_rate(summary: Summary) -> FalseAlarmRate | None:
    """The detector's; None where it is not stated, or each class or group has one of its own."""
    return None if summary.metadata.compared else summary.metadata.false_alarm_rate


def own_rate(summary: Summary) -> str:
    """What the one detector of the file does, whose calibration set does not change."""
    rate = stated_rate(summary)
    if rate is None:
        return ""
    return (
        f"With its calibration inputs this detector flags at most {percent(rate.at_most)} % of trustworthy inputs, "
        f"with {100 * rate.confidence:g} % confidence."
    )


def accuracy(summary: Summary) -> str:
    """How often trusted and other predictions are right, where that is known."""
    known, trusted = summary.labelled, summary.trusted_labelled
    if not known:
        return ""
    parts = [f"Of {number(known)} predictions whose true label is known {percent(summary.correct / known)} % are right"]
    if trusted:
        parts.append(f"of the trusted ones {percent(summary.trusted_correct / trusted)} %")
    if known > trusted:
        right = summary.correct - summary.trusted_correct
        parts.append(f"of the flagged ones {percent(right / (known - trusted))} %")
    return ", ".join(parts) + "."


def drift(summary: Summary, windows: Sequence[Window]) -> str:
    """Whether p-values stay uniform."""
    rule = (
        "When all is well, p-values of inputs that the detector trusts are spread like those of the inputs that it was "
        "fitted with, mistakes of the classifier included."
    )
    if not windows:
        return "There are no verdicts to follow."
    metadata = summary.metadata
    if metadata.compared:
        return (
            f"{rule} Here they compare with the calibration inputs of one class or group each, whose number the test "
            "does not know: score without --conditional and --groups to follow drift."
        )
    if metadata.threshold is None or metadata.calibration_size is None:
        return f"{rule} The file does not state the size of the calibration set, which the test needs."
    usual = usual_inputs(metadata)
    if usual is None:
        return (
            f"{rule} The file does not state how its mistakes look, for an earlier version made it or its detector: "
            "fit and score again to follow drift."
        )
    shifted = [window for window in windows if window.shifted]
    test = f"two-sample Kolmogorov-Smirnov test at {percent(LEVEL).removesuffix('.0')} %, Holm's correction"
    if len(windows) == 1:
        few = (
            "The data has no times, so nothing can be followed over them: rows stand in the order of names or folders, "
            "over which nothing drifts. Score with --time to see drift."
            if summary.windows.by == "index"
            else "There are too few inputs to follow them over time."
        )
        verdict = "they are not" if shifted else "nothing speaks against it"
        return f"{rule} Over all {_inputs(windows[0].judged)} {verdict} ({test}). {few}"
    if not shifted:
        return f"{rule} In none of {len(windows)} windows do they depart from that ({test})."
    first, middle = shifted[0], usual_quartiles(usual)[1]
    smaller = sum(1 for window in shifted if (window.distance or 0) > 0) * 2 >= len(shifted)
    medians = [window.quartiles[1] for window in shifted if window.quartiles]
    least = (
        "These inputs have come to look less like those the detector was fitted with."
        if smaller
        else "These inputs look more ordinary than those the detector was fitted with."
    )
    if len(shifted) == len(windows):
        where = f"In all {len(windows)} windows they are not"
    else:
        where = f"In {len(shifted)} of {len(windows)} windows they are not, first from {first.start}"
    return (
        f"{rule} {where} ({test}): they are {'smaller' if smaller else 'larger'} than they should be, with a median of "
        f"{np.median(medians):.2f} instead of {middle:.2f}. {least}"
    )


def crowding(windows: Sequence[Window]) -> str:
    """Where more is flagged than chance explains."""
    crowded = [window for window in windows if window.crowded]
    if not windows or windows[0].high is None:
        return ""
    many = f"{len(crowded)} of {len(windows)}" if len(windows) > 1 else "the only"
    if crowded:
        worst = max(crowded, key=lambda window: window.share)
        return (
            f"More is flagged than usual, mistakes included, in {many} window{'s' * (len(windows) > 1)}, most from "
            f"{worst.start} to {worst.end} ({percent(worst.share)} %)."
        )
    return "In no window is more flagged than usual, mistakes included."


def _inputs(count: int) -> str:
    return f"{number(count)} input" + "s" * (count != 1)
