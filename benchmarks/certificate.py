"""What noise proves: accuracy, detection and the bound on every attacker, by its standard deviation and the radius."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.networks.hardened import HARDENED
from benchmarks.networks.hardened import NOISE as TRAINED_WITH
from benchmarks.page import Page
from benchmarks.shipped import SHIPPED, Suite, base_of
from gradgeo import attacks
from gradgeo._typing import Array
from gradgeo.bench.cache import DETECTOR_CODE, cached, source_hash, tensor_hash, weights_key
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.certificate import certify, evasion_bound, largest_radius, worst_case
from gradgeo.detector.detector import Detector
from gradgeo.detector.noise import repeatable
from gradgeo.errors import ArgumentError
from gradgeo.metrics import auroc

EVIDENCE, ALPHA, FIT, OTHERS = "lite", 0.05, 600, 300
NOISES = (0.0, 0.06, 0.12, 0.25)
RADII = (0.1, 0.25, 0.5, 1.0)
NEAREST = 100  # inputs whose distance to another class is measured
ATTACKED, PART, ATTACK_NOISE, ATTACK_RADII, STEPS, ATTACK_DRAWS = 500, 50, 0.25, (0.1, 0.25), 10, 4
REPEATS = 50  # draws by which a point is judged
CERTIFIED, DRAWS = 20, 200
TOUGH = ("fashion-noise",)  # attacked, and certified input by input


def run(suite: Suite) -> Page:
    """A table of shares and bounds, one of attacks, one of certificates of single inputs."""
    page = Page("The certificate: what fresh noise proves")
    page.say(
        f"Detectors of evidence `{EVIDENCE}` with `noise=s`, alpha {ALPHA}, fitted on up to {FIT} inputs of the first "
        f"half of the test split; up to {suite.inputs} of the second half are judged, once each. Right: share that is "
        "classified correctly, with the noise. False alarms: flagged among these. AUROC in %: of other data, and of "
        "the classifier's own mistakes. e0: how many are wrong and trusted, of all that are judged. Bound at r: how "
        "often at most an attacker who knows everything but the draw gets a wrong answer trusted by changes of L2 "
        "length up to r (`gradgeo.certificate.evasion_bound`, 95 % confidence, one query). L2 is in units of the "
        "inputs: pixels in [0, 1], beats of standard deviation 1. Nearest: median L2 distance to another class, "
        f"without noise, by the minimum-norm attack on {NEAREST} correct inputs. NAME-noise: the classifier after "
        f"two epochs more with noise of {TRAINED_WITH:g}, made by this command. Too few: the classifier gets so few "
        "noisy inputs right that no detector can be fitted."
    )
    heading = ["model", "nearest", "s", "right", "false alarms", "AUROC other data", "AUROC mistakes", "e0"]
    rows = []
    for name in suite.wanted((*SHIPPED, *HARDENED_BY_NOISE)):
        classifier = suite[name]
        nearest = _nearest(classifier, suite.inputs)
        for noise in NOISES:
            try:
                found = _row(suite, classifier, name, noise)
            except ArgumentError as error:
                if not noise:
                    raise
                page.data.setdefault("not fitted", []).append({"model": name, "noise": noise, "error": str(error)})
                rows.append([name, f"{nearest:.2f}", f"{noise:g}", "too few", *[""] * (len(RADII) + 4)])
                continue
            row = {"model": name, "noise": noise, "nearest": nearest, **found}
            page.data.setdefault("rows", []).append(row)
            bounds = [f"{row['bounds'][str(r)]:.1%}" for r in RADII] if noise else ["none"] * len(RADII)
            shares = [f"{row[key]:.1%}" for key in ("right", "false_alarms")]
            areas = [row["auroc_other"], row["auroc_mistakes"]]
            shown = ["" if area is None else f"{100 * area:.1f}" for area in areas]
            counts = f"{row['evaded']} of {row['inputs']}"
            rows.append([name, f"{nearest:.2f}", f"{noise:g}", *shares, *shown, counts, *bounds])
    page.table([*heading, *(f"bound, r {radius:g}" for radius in RADII)], rows)
    for name in suite.wanted(TOUGH):
        classifier = suite[name]
        page.data.setdefault("attacks", {})[name] = _attacks(page, suite, classifier)
        page.data.setdefault("single", {})[name] = _single(page, suite, classifier)
    return page


HARDENED_BY_NOISE = tuple(name for name in HARDENED if name.endswith("-noise"))


def _detector(classifier: ClassifierUnderTest, noise: float) -> Detector:
    rows = min(FIT, classifier.half)
    detector = Detector(classifier.model, evidence=EVIDENCE, alpha=ALPHA, noise=noise or None)
    return detector.fit(classifier.x[:rows], classifier.y[:rows])


def _held_out(classifier: ClassifierUnderTest, inputs: int) -> tuple[Tensor, Tensor]:
    rows = slice(classifier.half, classifier.half + inputs)
    return classifier.x[rows], classifier.y[rows]


def _key(classifier: ClassifierUnderTest, *more: object) -> tuple[object, ...]:
    return ("certificate", 1, weights_key(classifier.model), source_hash(*DETECTOR_CODE, "certificate.py"), *more)


def _row(suite: Suite, classifier: ClassifierUnderTest, name: str, noise: float) -> dict[str, Any]:
    x, y = _held_out(classifier, suite.inputs)
    other, _ = suite.read(SHIPPED[base_of(name)].others[0], min(suite.inputs, OTHERS))
    if other.ndim == 3:  # signals of another length
        other = F.interpolate(other, x.shape[-1], mode="linear")
    found = cached(
        partial(_judged, classifier, noise, x, other), *_key(classifier, noise, tensor_hash(x), tensor_hash(other))
    )
    wrong, trusted = torch.from_numpy(found["label"]) != y, torch.from_numpy(found["trusted"])
    score, other_score = torch.from_numpy(found["score"]), torch.from_numpy(found["other"])
    evaded, right = int((wrong & trusted).sum()), int((~wrong).sum())
    enough = min(int(wrong.sum()), right) >= 10
    return {
        "inputs": len(x),
        "right": right / len(x),
        "false_alarms": int((~wrong & ~trusted).sum()) / max(1, right),
        "auroc_other": auroc(score[~wrong], other_score).value,
        "auroc_mistakes": auroc(score[~wrong], score[wrong]).value if enough else None,
        "evaded": evaded,
        "bounds": {str(r): evasion_bound(evaded, len(x), radius=r, noise=noise) if noise else 1.0 for r in RADII},
    }


def _judged(classifier: ClassifierUnderTest, noise: float, x: Tensor, other: Tensor) -> dict[str, Any]:
    detector = _detector(classifier, noise)
    with repeatable(0):
        verdicts, others = detector.predict(x), detector.predict(other)
    columns = {"label": verdicts.label, "trusted": verdicts.trusted, "score": verdicts.outlier_score}
    return {key: value.numpy() for key, value in columns.items()} | {"other": others.outlier_score.numpy()}


def _nearest(classifier: ClassifierUnderTest, inputs: int) -> float:
    """The median L2 distance of correctly classified inputs to another class, as an attack finds it."""
    x, y = classifier.x[classifier.half :], classifier.y[classifier.half :]
    right = classifier.correct[classifier.half :].nonzero()[:, 0][: min(inputs, NEAREST)]

    def measure() -> dict[str, Any]:
        result = attacks.minimum_norm(classifier.folded, x[right], y[right], bounds=classifier.bounds)
        return {"distance": torch.where(result.success, result.distance, torch.inf).numpy()}

    return float(np.median(cached(measure, *_key(classifier, "nearest", len(right)))["distance"]))


def _attacks(page: Page, suite: Suite, classifier: ClassifierUnderTest) -> list[dict[str, Any]]:
    """How often evasion with expectation over draws gets through, beside the bounds."""
    detector = _detector(classifier, ATTACK_NOISE)
    x, y = _held_out(classifier, min(suite.inputs, ATTACKED))
    clean_x, clean_y = _held_out(classifier, suite.inputs)
    with repeatable(0):
        verdicts = detector.predict(clean_x)
    evaded, found = int((verdicts.trusted & (verdicts.label != clean_y)).sum()), []
    clean = _shares(classifier, detector, x, y, 0.0)  # (n,)
    for radius in (0.0, *ATTACK_RADII):
        shares = _shares(classifier, detector, x, y, radius)
        each = [worst_case((REPEATS * p + 0.5) / (REPEATS + 1), radius=radius, noise=ATTACK_NOISE) for p in clean]
        bounds = [
            evasion_bound(evaded, len(clean_x), radius=radius, noise=ATTACK_NOISE, queries=queries)
            for queries in (1, 10)
        ]
        found.append(
            {
                "radius": radius,
                "inputs": len(x),
                "evaded": float(shares.mean()),
                "error": float(shares.std(ddof=1) / len(shares) ** 0.5),
                "gained": float((shares - clean).mean()),
                "gained_error": float((shares - clean).std(ddof=1) / len(shares) ** 0.5),
                "each": float(np.mean(each)),
                "bound": bounds[0],
                "of_ten": float((1 - (1 - shares) ** 10).mean()),
                "bound_of_ten": bounds[1],
            }
        )
    page.say(f"## {classifier.name}: an attack with expectation over draws, s {ATTACK_NOISE:g}")
    page.say(
        f"{len(x)} inputs as they come, mistakes included. Evasion in L2, {STEPS} steps of r/4, {ATTACK_DRAWS} draws a "
        f"step; each point is then judged {REPEATS} times. Gained: over the same inputs unattacked, with its standard "
        "error. Most, input by input: the mean of Phi(Phi^-1(p) + r/s) over these inputs, p the share of their own "
        f"{REPEATS} draws, which no attack on them exceeds but by chance. It is below the bound, which knows the mean "
        "of p alone: most inputs are far from a trusted mistake, and some are one already. What is missing between "
        "attack and most is the attack's, or the network's, whose regions are no half-spaces; where they are, the "
        "attack reaches it (tests/test_certificate.py). Ten tries: one success of ten counts. The bound holds with the "
        "confidence of e0, on average over inputs such as those that e0 was counted on; these few may lie above it by "
        "chance, as without any attack (r 0)."
    )
    rows = [
        [
            f"{each['radius']:g}",
            f"{each['evaded']:.1%} ± {each['error']:.1%}",
            f"{each['gained']:.1%} ± {each['gained_error']:.1%}",
            *(f"{each[key]:.1%}" for key in ("each", "bound", "of_ten", "bound_of_ten")),
        ]
        for each in found
    ]
    page.table(["r", "wrong and trusted", "gained", "most, input by input", "bound", "in ten tries", "bound"], rows)
    return found


def _shares(classifier: ClassifierUnderTest, detector: Detector, x: Tensor, y: Tensor, radius: float) -> Array:
    """Of each input (n,) the share of draws that are wrong and trusted once it is moved by `radius`; kept in parts."""

    def attack(x: Tensor, y: Tensor) -> dict[str, Any]:
        point = x
        if radius:
            point = attacks.evasion(
                detector,
                x,
                y,
                epsilon=radius,
                norm="l2",
                steps=STEPS,
                step_size=radius / 4,
                draws=ATTACK_DRAWS,
                bounds=classifier.bounds,
                batch_size=PART,
            ).adversarial
        with repeatable(1):
            tries = [detector.predict(point) for _ in range(REPEATS)]
        return {"shares": np.mean([(v.trusted & (v.label != y)).numpy() for v in tries], axis=0)}

    key = _key(classifier, "attack", radius, STEPS, ATTACK_DRAWS, REPEATS, source_hash("attacks/*.py"))
    parts = [
        cached(partial(attack, part, labels), *key, tensor_hash(part))
        for part, labels in zip(x.split(PART), y.split(PART), strict=True)
    ]
    return np.concatenate([part["shares"] for part in parts])


def _single(page: Page, suite: Suite, classifier: ClassifierUnderTest) -> dict[str, Any]:
    """Radii of single inputs, and the false-alarm rate of the majority."""
    detector = _detector(classifier, ATTACK_NOISE)
    x, y = _held_out(classifier, min(suite.inputs, CERTIFIED))

    def measure() -> dict[str, Any]:
        with repeatable(2):
            found = certify(detector, x, draws=DRAWS)
        return {key: value.numpy() for key, value in vars(found).items()}

    found = cached(measure, *_key(classifier, "single", DRAWS, tensor_hash(x)))
    right = found["label"] == y.numpy()
    certified = {str(r): float(np.mean(right & (found["radius"] >= r))) for r in (0.0, *RADII[:2], 0.5)}
    wrong = (found["label"] >= 0) & ~right
    clean = classifier.correct[classifier.half :][: len(x)].numpy()
    result = {
        "inputs": len(x),
        "right_and_trusted_within": certified,
        "wrong_and_trusted": float(np.mean(wrong)),
        "not_trusted": float(np.mean((found["label"] < 0) & ~found["abstained"])),
        "abstained": float(np.mean(found["abstained"])),
        "false_alarms": float(np.mean(~found["trusted"][clean])),
        "largest": largest_radius(noise=ATTACK_NOISE, draws=DRAWS),
    }
    page.say(f"## {classifier.name}: single inputs, s {ATTACK_NOISE:g}")
    page.say(
        f"`gradgeo.certify` with {DRAWS:,} draws, confidence 99.9 % each, on {len(x)} inputs; no radius can exceed "
        f"{result['largest']:.2f}. Right and trusted by the majority within r: "
        + ", ".join(f"{share:.0%} at {radius}" for radius, share in certified.items())
        + f". Wrong and trusted: {result['wrong_and_trusted']:.0%}; not trusted: {result['not_trusted']:.0%}; "
        f"abstained: {result['abstained']:.0%}. Of the inputs that the classifier gets right without noise the "
        f"majority does not trust {result['false_alarms']:.0%}: its own false-alarm rate, which alpha does not bound."
    )
    return result
