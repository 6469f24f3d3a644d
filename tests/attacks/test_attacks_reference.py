"""Attack strength beside an independent library, foolbox, on trained classifiers: equal budgets, the same run."""

import copy
import io
from pathlib import Path

import pytest
import torch

from gradgeo import attacks, csm, csm_statistics

pytestmark = pytest.mark.data


POINTS = 0.02  # two percentage points


def at_par(ours, theirs):
    """Whether two success masks have rates within two points, and are neither empty nor full."""
    mine, other, n = int(ours.sum()), int(theirs.sum()), len(theirs)
    assert 0.1 * n < other < 0.95 * n
    return abs(mine - other) <= round(POINTS * n)


def images(path: Path, n):
    pq = pytest.importorskip("pyarrow.parquet")
    image = pytest.importorskip("PIL.Image")
    np = pytest.importorskip("numpy")
    rows = pq.read_table(path).slice(0, n).to_pydict()
    x = np.stack([np.asarray(image.open(io.BytesIO(item["bytes"]))) for item in rows["image"]])
    x = torch.from_numpy(x).float().div(255)
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
    return x, torch.tensor(rows["label"])


@pytest.fixture(scope="module")
def case(request, gradgeo_data, nets):
    """A trained classifier, test inputs that it classifies correctly, and foolbox around it."""
    foolbox = pytest.importorskip("foolbox")
    name, data, n = request.param
    model = nets.load(name).requires_grad_(False)
    x, labels = images(gradgeo_data / "data" / f"{data}-test.parquet", n + 20)
    with torch.no_grad():
        right = model(x).argmax(1) == labels
    x, labels = x[right][:n], labels[right][:n]
    assert len(x) == n
    return model, x, labels, foolbox, foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")


FASHION, CIFAR = ("fashion_cnn", "fashion_mnist", 100), ("cifar10_resnet20", "cifar10", 50)
on_fashion = pytest.mark.parametrize("case", [FASHION], indirect=True, ids=["fashion"])
on_both = pytest.mark.parametrize("case", [FASHION, CIFAR], indirect=True, ids=["fashion", "cifar10"])


@pytest.mark.parametrize(
    ("case", "norm", "epsilon"),
    [
        (FASHION, "linf", 0.01),
        (FASHION, "linf", 0.02),
        (FASHION, "l2", 0.2),
        (FASHION, "l2", 0.35),
        (CIFAR, "linf", 1 / 255),
        (CIFAR, "l2", 0.05),
    ],
    indirect=["case"],
)
def test_pgd_is_as_strong_as_foolbox(case, norm, epsilon):
    model, x, labels, foolbox, wrapped = case
    reference = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = reference(rel_stepsize=0.25, steps=10, random_start=False)
    _, _, theirs = attack(wrapped, x, labels, epsilons=epsilon)
    ours = attacks.pgd(model, x, labels, epsilon=epsilon, norm=norm, steps=10, random_start=False)
    assert at_par(ours.success, theirs)


@on_both
def test_targeted_pgd_is_as_strong_as_foolbox(case):
    model, x, labels, foolbox, wrapped = case
    targets = attacks.random_targets(labels, 10)
    goal = foolbox.criteria.TargetedMisclassification(targets)
    epsilon = 0.03 if x.shape[1] == 1 else 1.5 / 255
    attack = foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=10, random_start=False)
    _, _, theirs = attack(wrapped, x, goal, epsilons=epsilon)
    ours = attacks.pgd(model, x, labels, epsilon=epsilon, steps=10, random_start=False, targets=targets)
    assert at_par(ours.success, theirs)


@on_fashion
def test_random_starts_are_as_strong_as_foolbox(case):
    model, x, labels, foolbox, wrapped = case
    torch.manual_seed(0)
    attack = foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=10, random_start=True)
    _, _, theirs = attack(wrapped, x, labels, epsilons=0.02)
    assert at_par(attacks.pgd(model, x, labels, epsilon=0.02, steps=10).success, theirs)


@on_both
def test_deepfool_is_as_strong_as_foolbox(case):
    model, x, labels, foolbox, wrapped = case
    few = 50 if x.shape[1] == 1 else 12  # foolbox takes up to half a second for each
    x, labels = x[:few], labels[:few]
    _, theirs, success = foolbox.attacks.L2DeepFoolAttack(steps=50)(wrapped, x, labels, epsilons=None)
    ours = attacks.minimum_norm(model, x, labels)
    assert bool(success.all())
    assert bool(ours.success.all())
    distance = (theirs - x).flatten(1).norm(dim=1)
    for budget in distance.quantile(torch.tensor([0.25, 0.5, 0.75])):
        assert at_par(ours.distance <= budget, distance <= budget)


@on_both
def test_fgsm_is_foolbox_to_the_pixel(case):
    """Where the prediction is not so confident that the textbook float32 gradient loses signs; ours never does."""
    model, x, labels, foolbox, wrapped = case
    _, theirs, _ = foolbox.attacks.FGSM()(wrapped, x, labels, epsilons=0.02)
    ours = attacks.fgsm(model, x, labels, epsilon=0.02).adversarial
    modest = model(x).softmax(1).amax(1) < 0.999
    assert int(modest.sum()) >= 10
    assert float((ours - theirs)[modest].abs().max()) < 1e-6
    exact = attacks.fgsm(copy.deepcopy(model).double(), x.double(), labels, epsilon=0.02).adversarial
    assert float(((ours - exact).abs() > 1e-6).float().mean()) < 1e-4
    assert float(((theirs - exact).abs() > 1e-6).float().mean()) > 1e-3


@on_fashion
def test_csa_aligns_trained_relu_networks_only_with_smooth_relus(case):
    model, x, labels, _, _ = case
    x, labels = x[:24], labels[:24]

    def alignment(**options):
        result = attacks.csa(model, x, labels, epsilon=0.1, steps=10, **options)
        assert float(result.success.float().mean()) >= 0.9
        found = model(result.adversarial).argmax(1)
        return float(csm_statistics(csm(model, result.adversarial), found)[:, 0].mean())

    plain, kinked, smooth = alignment(weight=0.0), alignment(sharpness=None), alignment()
    assert smooth > plain + 0.02
    assert smooth > kinked + 0.01
