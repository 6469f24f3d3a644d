"""Attacks that search without a gradient, and foolbox's that find the smallest change."""

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradgeo.attacks import AttackResult, minimum_norm
from gradgeo.attacks.norms import Bounds
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.errors import ModelError, expected, require

ANGLES = tuple(angle for angle in range(-30, 31, 5) if angle)
"""In degrees."""
DRAWS = 32
"""Of noise in the ball."""
TINY = 1e-6


def rotation(
    model: Model,
    x: Tensor,
    labels: Tensor,
    *,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> AttackResult:
    """The worst of 12 rotations by up to 30 degrees, bilinear, with zeros outside; images (N, channels, H, W).

    Source: Engstrom et al., "Exploring the landscape of spatial robustness", ICML 2019, without translations.
    """
    if x.ndim != 4:
        raise expected("x", "images (N, channels, H, W)", x)
    return _worst(model, x, labels, (rotated(x, angle) for angle in ANGLES))


def rotated(x: Tensor, degrees: float) -> Tensor:
    """Images (N, channels, H, W) turned clockwise about their centre; what comes from outside is 0."""
    angle, (height, width) = torch.deg2rad(torch.tensor(float(degrees))), x.shape[2:]
    cosine, sine = float(angle.cos()), float(angle.sin())
    # Coordinates run from -1 to 1 whatever the sides, so off the diagonal their ratio comes in.
    matrix = torch.tensor([[cosine, sine * height / width, 0.0], [-sine * width / height, cosine, 0.0]]).to(x)
    grid = F.affine_grid(matrix.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def noise_in_ball(
    model: Model,
    x: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> AttackResult:
    """The worst of 32 draws, uniform in the L-inf ball of radius epsilon."""
    generator = generator or torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        noisy: Tensor = x + epsilon * (2 * torch.rand(x.shape, generator=generator).to(x) - 1)
        return noisy if bounds is None else noisy.clamp(*bounds)

    return _worst(model, x, labels, (draw() for _ in range(DRAWS)))


def _worst(model: Model, x: Tensor, labels: Tensor, candidates: Iterable[Tensor]) -> AttackResult:
    """Of the candidates (N, *input) for each input the one where its class leads least."""
    classifier, own = Classifier(model), labels[:, None]
    worst, lead, success = x.clone(), torch.full((len(x),), torch.inf), torch.zeros(len(x), dtype=torch.bool)
    for candidate in candidates:
        logits = classifier.logits(candidate).logits
        leads = (logits.gather(1, own) - logits.scatter(1, own, -torch.inf).amax(1, keepdim=True))[:, 0]
        less = leads < lead
        worst[less], lead = candidate[less], torch.where(less, leads, lead)
        success[less] = logits.argmax(1)[less] != labels[less]
    return _result(x, worst, success)


def carlini_wagner(
    model: Model,
    x: Tensor,
    labels: Tensor,
    *,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
    searches: int = 4,
    steps: int = 50,
) -> AttackResult:
    """A small L2 change by Adam on a change of variables, its weight searched: foolbox's.

    With so few steps their length and the first weight have to fit the classifier; both come from the change that
    DeepFool finds: 50 steps go a multiple of its length, and the weight balances its square with the class's lead.

    Cost: `searches` * `steps` forward and backward passes per input, and DeepFool's; foolbox's own defaults are
    9 * 10,000.

    Source: Carlini and Wagner, "Towards evaluating the robustness of neural networks", S&P 2017.
    """
    found = minimum_norm(model, x, labels, bounds=bounds)
    first, second = Classifier(model).logits(x).logits.topk(2, dim=1).values.unbind(1)
    length, lead = max(TINY, float(found.distance.median())), max(TINY, float((first - second).median()))
    attack = foolbox().attacks.L2CarliniWagnerAttack(
        binary_search_steps=searches,
        steps=steps,
        stepsize=length / math.sqrt(x[:1].numel()),
        initial_const=2 * length**2 / lead,
    )
    return by_foolbox(attack, model, x, labels, bounds, generator)


def brendel_bethge(
    model: Model,
    x: Tensor,
    labels: Tensor,
    *,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
    steps: int = 40,
) -> AttackResult:
    """A small L2 change by walking along the boundary, from another input of another class: foolbox's.

    Cost: `steps` forward and backward passes per input, and as many small problems solved; foolbox's default is 1,000.

    Source: Brendel et al., "Accurate, reliable and fast robustness evaluation", NeurIPS 2019.
    """
    require("numba", "numba")
    attack = foolbox().attacks.L2BrendelBethgeAttack(steps=steps, lr_num_decay=max(1, steps // 10))
    predicted = Classifier(model).logits(x).logits.argmax(1)
    others = [(predicted != label).nonzero()[:, 0] for label in labels]
    if not all(map(len, others)):
        raise expected("x", "of at least two predicted classes, to start from each other", x)
    start = torch.stack([x[rows[i % len(rows)]] for i, rows in enumerate(others)])
    return by_foolbox(attack, model, x, labels, bounds, generator, starting_points=start)


def foolbox() -> Any:
    """The library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of modules of SciPy that it imports by former names
        return require("foolbox", "bench")


def by_foolbox(
    attack: Any,
    model: Model,
    x: Tensor,
    labels: Tensor,
    bounds: Bounds,
    generator: torch.Generator | None,
    **options: Any,
) -> AttackResult:
    """What an attack of foolbox finds within finite bounds; `options` are for its `run`."""
    classifier = Classifier(model)
    bounds = finite_bounds(x, bounds)
    wrapped = foolbox().PyTorchModel(as_module(classifier), bounds=bounds, device=x.device)
    with seeded(generator), told(f"foolbox's {type(attack).__name__}"):
        adversarial = attack.run(wrapped, x, labels, **options).detach().clamp(*bounds)
    return judged(classifier, x, adversarial, labels)


def finite_bounds(x: Tensor, bounds: Bounds) -> tuple[float, float]:
    """The bounds, which other libraries need: an unbounded space gets three times the range of the inputs."""
    if bounds is not None:
        return bounds
    low, high = float(x.min()), float(x.max())
    return 2 * low - high, 2 * high - low


@contextmanager
def seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Within it the global generator, which other libraries draw from, begins where `generator` did."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if generator is None else generator.initial_seed())
        yield


@contextmanager
def told(attack: str) -> Iterator[None]:
    """Raises: ModelError, which names the attack, in whatever way it may fail on a model."""
    try:
        yield
    except Exception as error:
        raise ModelError(f"{attack} failed: {type(error).__name__}: {error}") from error


def judged(classifier: Classifier, x: Tensor, adversarial: Tensor, labels: Tensor) -> AttackResult:
    """The result of an attack that succeeds where the prediction is another than `labels`."""
    return _result(x, adversarial, classifier.logits(adversarial).logits.argmax(1) != labels)


def as_module(classifier: Classifier) -> torch.nn.Module:
    """A classifier as other libraries take one."""

    class Plain(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = classifier(x.clone())
            return logits

    return Plain().eval()


def _result(x: Tensor, adversarial: Tensor, success: Tensor) -> AttackResult:
    distance = (adversarial - x).flatten(1).norm(dim=1)
    return AttackResult(adversarial, success, distance, torch.zeros_like(success), None)
