"""What the ten statistics alone catch on CIFAR-10: out-of-distribution, attacked and misclassified inputs."""

import numpy as np
import torch

from benchmarks.page import Page
from benchmarks.shipped import Suite, pgd_examples
from benchmarks.ten_statistics import fit_ten_statistics, ten_statistics
from gradgeo.bench.scenarios import smooth_blobs
from gradgeo.metrics import auroc, tnr_at_tpr

SIZE = 1000


def run(suite: Suite) -> Page:
    """AUROC and TNR at 95 % TPR by scenario, at the detector's temperature and at the paper's."""
    classifier = suite["cifar10"]
    right = classifier.correct.numpy()
    fit = np.flatnonzero(right[: classifier.half])
    clean = classifier.half + np.flatnonzero(right[classifier.half :])[:SIZE]
    generator = torch.Generator().manual_seed(0)
    scenarios = {
        "CIFAR-100": suite.read("cifar100", SIZE)[0],
        "uniform noise": torch.rand(SIZE, 3, 32, 32, generator=generator),
        "smooth blobs": smooth_blobs(SIZE, (3, 32, 32), generator),
        **{
            f"PGD {e}/255": pgd_examples(classifier, classifier.x[clean], classifier.y[clean], e / 255)
            for e in (8, 2, 1)
        },
        "misclassified": classifier.x[classifier.half :][~torch.from_numpy(right[classifier.half :])],
    }
    upper = classifier.temperature

    page = Page("The ten statistics alone, CIFAR-10 ResNet-20")
    page.say(
        f"Fitted on the {len(fit)} correctly classified inputs of the first half of the test split, reported on {SIZE} "
        "of the second. PGD: untargeted, L-inf, 100 steps of epsilon/4, random start; successful examples only. AUROC "
        "and TNR at 95 % TPR in %, with 95 % intervals (DeLong; bootstrap)."
    )
    results: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    for name, temperature in ((f"temperature {upper:.1f} (the detector's own)", upper), ("temperature 1", 1.0)):
        trusted = ten_statistics(classifier, classifier.x[clean], temperature)
        model = fit_ten_statistics(classifier, temperature)
        inside = trusted.score(model)
        results[name] = {}
        for scenario, x in scenarios.items():
            outside = ten_statistics(classifier, x, temperature).score(model)
            estimates = {"auroc": auroc(inside, outside), "tnr95": tnr_at_tpr(inside, outside)}
            results[name][scenario] = {k: (e.value, e.low, e.high) for k, e in estimates.items()}
    page.table(
        ["inputs", "number", *(f"{name}: {figure}" for name in results for figure in ("AUROC", "TNR95"))],
        [
            [
                scenario,
                str(len(x)),
                *(
                    f"{100 * v:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
                    for name in results
                    for v, low, high in results[name][scenario].values()
                ),
            ]
            for scenario, x in scenarios.items()
        ],
    )
    page.say(
        "With cross-entropy at temperature 1 a confident input's map of class i is the gradient of z_k - z_i alone, "
        "however confident it is, and strong attacks look ordinary. At the upper quartile of the trusted margins the "
        "other classes keep their weight for trusted inputs and lose it for attacked ones, which are far more "
        "confident."
    )
    page.data = {"columns": results}
    return page
