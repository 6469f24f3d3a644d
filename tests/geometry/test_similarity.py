"""Saliency maps, CSM and statistics against float64 references written as plain loops."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradgeo
from benchmarks import reference
from gradgeo import GradgeoError, GradgeoWarning
from gradgeo.geometry import similarity
from helpers.nets import Recurrent

LOSSES = ("cross_entropy", "mse", "logit")


class ConvNet(nn.Module):
    def __init__(self, classes: int = 5, channels: int = 3, dims: int = 2) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.conv, self.norm = conv(channels, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(torch.tanh(self.conv(x)).flatten(2).mean(2))))


def mlp(inputs: int = 7, classes: int = 4, gain: float = 1.0) -> nn.Module:
    net = nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, classes))
    with torch.no_grad():
        net[2].weight *= gain
    return net


CASES = {
    "image": (lambda: ConvNet(5, 3, 2), (3, 9, 8)),
    "signal": (lambda: ConvNet(4, 1, 1), (1, 40)),
    "volume": (lambda: ConvNet(3, 2, 3), (2, 5, 4, 3)),
    "table": (lambda: mlp(7, 4), (7,)),
    "two classes": (lambda: mlp(7, 2), (7,)),
    "many classes": (lambda: mlp(30, 60), (30,)),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = CASES[request.param]
    return make(), torch.rand(3, *shape)


@pytest.mark.grid
@pytest.mark.rounding
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("temperature", [None, 4.0])
@pytest.mark.parametrize("rescale", [False, True])
def test_csm_equals_the_float64_oracle(
    case: tuple[nn.Module, Tensor], loss: str, temperature: float | None, rescale: bool
) -> None:
    model, x = case
    options = {"loss": loss, "temperature": temperature, "rescale": rescale}
    unsigned = gradgeo.csm(model, x, sign=False, **options)
    signed = gradgeo.csm(model, x, **options)
    maps = reference.maps(model, x, **options)
    k = maps.shape[1]
    # The rescaled largest logit is the constant 10: its own map is zero and has no cosine.
    defined = torch.ones(3, k, dtype=torch.bool)
    if rescale and loss == "logit":
        defined &= maps.flatten(2).norm(dim=2) > 1e-9
    pairs = (defined[:, :, None] & defined[:, None, :]) & ~torch.eye(k, dtype=torch.bool)
    assert ((unsigned.double() - reference.cosines(maps))[pairs].abs() <= 1e-4).all()
    assert ((signed.double() - reference.cosines(maps.sign()))[pairs].abs() <= 4 / x[0].numel()).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_unsigned_maps_are_the_true_gradients(case: tuple[nn.Module, Tensor], loss: str) -> None:
    model, x = case
    maps = gradgeo.saliency_maps(model.double(), x.double(), loss=loss, sign=False, temperature=2.0)
    expected = reference.maps(model, x, loss, 2.0)
    assert (maps - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_maps_equal_finite_differences() -> None:
    torch.manual_seed(0)
    model, x = mlp(7, 4).double(), torch.rand(2, 7, dtype=torch.float64)
    maps = gradgeo.saliency_maps(model, x, sign=False)
    step = 1e-6
    for j in range(7):
        e = F.one_hot(torch.tensor(j), 7) * step
        up, down = (F.log_softmax(model(x + s * e), 1) for s in (1, -1))
        assert torch.allclose(maps[:, :, j], -(up - down) / (2 * step), atol=1e-8)


def test_linear_model_has_a_closed_form_csm() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3).double(), torch.rand(4, 6, dtype=torch.float64)
    p, W = model(x).softmax(1).detach(), model.weight.detach()
    gradient = torch.stack([(p - F.one_hot(torch.tensor(i), 3)) @ W for i in range(3)], 1)
    assert torch.allclose(gradgeo.saliency_maps(model, x, sign=False), gradient, atol=1e-14)
    assert torch.allclose(gradgeo.csm(model, x, sign=False), reference.cosines(gradient), atol=1e-12)
    assert torch.allclose(gradgeo.csm(model, x, loss="logit"), reference.cosines(W.sign().expand(4, 3, 6)), atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"sign": False}, {"loss": "mse", "temperature": 3.0}, {"classes": 3}])
def test_a_batch_of_64_equals_64_singles(options: dict) -> None:
    torch.manual_seed(0)
    model, x = ConvNet(), torch.rand(64, 3, 9, 8)
    together = gradgeo.csm(model, x, **options)
    singles = torch.cat([gradgeo.csm(model, row[None], **options) for row in x])
    limit = 1e-4 if options.get("sign") is False else 4 / x[0].numel()
    assert (together - singles).abs().max() <= limit
    assert torch.equal(gradgeo.csm(model, x, chunk_size=7, **options).isnan(), together.isnan())


def test_top_n_and_chosen_classes_are_parts_of_the_whole() -> None:
    torch.manual_seed(0)
    model, x = mlp(30, 60).double().eval(), torch.rand(5, 30, dtype=torch.float64)
    everything = gradgeo.saliency_maps(model, x)
    top = model(x).topk(6, dim=1).indices
    rows = torch.arange(5)[:, None]
    assert torch.equal(gradgeo.saliency_maps(model, x, classes=6), everything[rows, top])
    chosen = torch.tensor([41, 3, 17])
    assert torch.equal(gradgeo.saliency_maps(model, x, classes=chosen), everything[:, chosen])
    assert torch.equal(gradgeo.saliency_maps(model, x, classes=top), everything[rows, top])


def test_channel_maximum_is_taken_after_the_sign() -> None:
    torch.manual_seed(0)
    model, x = ConvNet(), torch.rand(2, 3, 9, 8)
    maps = gradgeo.saliency_maps(model, x, channel_max=True)
    assert torch.equal(maps, gradgeo.saliency_maps(model, x).amax(2))
    assert gradgeo.csm(model, x, channel_max=True).shape == (2, 5, 5)
    with pytest.raises(GradgeoError, match=r"saliency_maps: expected channel_max to be False for inputs without"):
        gradgeo.saliency_maps(mlp(), torch.rand(2, 7), channel_max=True)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_confident_inputs_keep_their_geometry(loss: str) -> None:
    torch.manual_seed(0)
    base, x = mlp(200, 6, gain=20.0), torch.rand(20, 200)
    model = nn.Sequential(base, Scale(50.0))
    ours = gradgeo.saliency_maps(model, x, loss=loss)
    k = model(x).argmax(1)
    reference = gradgeo.saliency_maps(model.double(), x.double(), loss=loss)
    rows = torch.arange(20)
    assert (ours[rows, k] == reference[rows, k]).double().mean() >= 0.99
    assert (ours[rows, k] != 0).all()
    # and the textbook gradient indeed loses them in float32
    leaf = x.clone().requires_grad_()
    (naive,) = torch.autograd.grad(F.cross_entropy(model.float()(leaf), k, reduction="sum"), leaf)
    assert (naive.sign() == reference[rows, k]).double().mean() < 0.9


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_two_class_cross_entropy_is_always_opposite() -> None:
    matrix = gradgeo.csm(mlp(7, 2), torch.rand(4, 7))
    assert torch.equal(matrix, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).expand(4, 2, 2))
    assert (gradgeo.csm(mlp(7, 2), torch.rand(4, 7), loss="logit", sign=False)[:, 0, 1] > -0.9999).any()


def test_cosines_of_zero_tiny_and_nan_maps() -> None:
    maps = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [1e-30, 0.0]], [[torch.nan, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    matrix = gradgeo.cosine_similarity_matrix(maps)
    assert torch.allclose(matrix[0], torch.tensor([[1, 0, 0], [0, 1, 0.5**0.5], [0, 0.5**0.5, 1]]))
    assert matrix[1, 0].isnan().all()
    assert matrix[1, :, 0].isnan().all()
    assert torch.equal(matrix[1, 1:, 1:], torch.eye(2))


def test_csm_is_symmetric_bounded_with_unit_diagonal() -> None:
    torch.manual_seed(0)
    matrix = gradgeo.csm(mlp(30, 60), torch.rand(6, 30))
    assert torch.equal(matrix, matrix.mT)
    assert matrix.abs().max() == 1
    assert torch.equal(matrix.diagonal(dim1=1, dim2=2), torch.ones(6, 60))


@pytest.mark.parametrize("k", [2, 3, 7])
def test_statistics_equal_plain_loops(k: int) -> None:
    rng = np.random.default_rng(0)
    csm = torch.from_numpy(rng.uniform(-1, 1, (9, k, k)))
    predicted = torch.from_numpy(rng.integers(0, k, 9))
    stats = gradgeo.csm_statistics(csm, predicted)
    assert stats.shape == (9, 10)
    assert gradgeo.STATISTICS[:2] == ("s1_mean", "s1_max")
    for n in range(9):
        s1, s2 = [], []
        for i in range(k):
            for j in range(i + 1, k):
                (s2 if int(predicted[n]) in (i, j) else s1).append(float(csm[n, i, j]))
        row = []
        for group in (s1, s2):
            values = np.array(group) if group else np.zeros(1)
            row += [values.mean(), values.max(), values.min(), values.std(), (values**2).mean()]
        np.testing.assert_allclose(stats[n], row, atol=1e-14)


def test_statistics_do_not_depend_on_the_order_of_the_pairs() -> None:
    """In float32 the mean of the same fractions would differ by an ulp, and equal inputs would have other scores."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-70, 71, (200, 45), generator=generator).float() / 70
    turned = values[:, torch.randperm(45, generator=generator)]
    assert torch.equal(similarity._moments(values), similarity._moments(turned))
    assert not torch.equal(values.mean(1), turned.mean(1))


@pytest.mark.parametrize("k", [2, 3, 12])
def test_statistics_by_indices_are_bit_for_bit_those_by_masks(k: int) -> None:
    """By indices no value is read, so that exports carry them; the pairs come in the same order."""
    csm, predicted = torch.randn(40, k, k), torch.randint(0, k, (40,))
    first, second = torch.triu_indices(k, k, offset=1)
    own = (first == predicted[:, None]) | (second == predicted[:, None])
    pairs = csm[:, first, second]
    groups = (pairs[~own].view(40, (k - 1) * (k - 2) // 2), pairs[own].view(40, k - 1))
    assert torch.equal(similarity.statistics_of(csm, predicted), torch.cat([*map(similarity._moments, groups)], 1))


def test_bfloat16_and_float64_models() -> None:
    torch.manual_seed(0)
    model, x = mlp(50, 5), torch.rand(4, 50)
    assert gradgeo.csm(model.double(), x).dtype == torch.float64  # the input follows the model
    assert gradgeo.saliency_maps(model.bfloat16(), x).dtype == torch.bfloat16
    matrix = gradgeo.csm(model, x)
    assert matrix.dtype == torch.float32
    assert matrix.isfinite().all()


def test_works_without_gradients_in_inference_mode_and_under_autocast() -> None:
    torch.manual_seed(0)
    model, x = ConvNet(), torch.rand(4, 3, 9, 8)
    expected = gradgeo.csm(model, x)
    with torch.no_grad():
        assert torch.equal(gradgeo.csm(model, x), expected)
    with torch.inference_mode():
        assert torch.equal(gradgeo.csm(model, x.clone()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gradgeo.csm(model, x), expected)
    with torch.inference_mode():
        made_inside = ConvNet()
    assert gradgeo.csm(made_inside, x).isfinite().all()


def test_non_contiguous_input() -> None:
    torch.manual_seed(0)
    model, x = ConvNet(), torch.rand(4, 9, 8, 3).permute(0, 3, 1, 2)
    assert not x.is_contiguous()
    limit = 4 / x[0].numel()
    assert (gradgeo.csm(model, x) - gradgeo.csm(model, x.contiguous())).abs().max() <= limit


class Wrapped(nn.Module):
    def __init__(self, net: nn.Module, how: str) -> None:
        super().__init__()
        self.net, self.how = net, how

    def forward(self, x: Tensor) -> object:
        z = self.net(x)
        if self.how == "namespace":
            return type("ModelOutput", (), {"logits": z, "hidden": None})()
        return {"tuple": (z, x), "list": [z], "dict": {"loss": None, "logits": z}, "first": {"out": z}}[self.how]


@pytest.mark.parametrize("how", ["tuple", "list", "dict", "first", "namespace"])
def test_outputs_that_hold_logits(how: str) -> None:
    net, x = mlp(), torch.rand(3, 7)
    assert torch.equal(gradgeo.csm(Wrapped(net, how), x), gradgeo.csm(net, x))


def test_functions_and_compiled_wrappers_are_models_too() -> None:
    net, x = mlp(), torch.rand(3, 7)
    expected = gradgeo.csm(net, x)
    assert torch.equal(gradgeo.csm(lambda x: net(x), x), expected)
    assert torch.equal(gradgeo.csm(nn.DataParallel(net), x), expected)


def test_in_place_first_layer_and_recurrent_models() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sub_(0.5).relu_().cumsum(1)

    x = torch.rand(3, 5)
    before = x.clone()
    assert gradgeo.saliency_maps(InPlace(), x).shape == (3, 5, 5)
    assert torch.equal(x, before)
    assert gradgeo.csm(Recurrent(), torch.rand(2, 6, 3)).isfinite().all()


def test_bad_rows_are_nan_and_leave_the_others_alone() -> None:
    torch.manual_seed(0)
    model, x = ConvNet(), torch.rand(5, 3, 9, 8)
    expected = gradgeo.csm(model, x)
    x[1, 0, 0, 0], x[3, 2, 1, 1] = torch.nan, torch.inf
    with pytest.warns(GradgeoWarning, match=r"^2 of 5 inputs have NaN or infinite") as caught:
        matrix = gradgeo.csm(model, x)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert matrix[[1, 3]].isnan().all()
    assert torch.equal(matrix[[0, 2, 4]], expected[[0, 2, 4]])


def test_empty_batch() -> None:
    assert gradgeo.saliency_maps(ConvNet(), torch.rand(0, 3, 9, 8)).shape == (0, 5, 3, 9, 8)
    assert gradgeo.csm(mlp(), torch.rand(0, 7), classes=2).shape == (0, 2, 2)
    assert gradgeo.csm_statistics(torch.rand(0, 4, 4), torch.zeros(0, dtype=torch.long)).shape == (0, 10)


def test_a_dead_network_has_zero_cosines() -> None:
    class Dead(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3] * 0

    maps = gradgeo.saliency_maps(Dead(), torch.rand(2, 5))
    assert torch.equal(maps, torch.zeros(2, 3, 5))
    assert torch.equal(gradgeo.cosine_similarity_matrix(maps), torch.eye(3).expand(2, 3, 3))


def test_probabilities_instead_of_logits_are_noticed() -> None:
    with pytest.warns(GradgeoWarning, match="the model returns probabilities"):
        gradgeo.csm(nn.Sequential(mlp(), nn.Softmax(1)), torch.rand(3, 7))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradgeo.csm(mlp(), torch.randint(0, 255, (3, 7))), r"csm: expected x to be a floating-point .* x / 255"),
        (lambda: gradgeo.csm(mlp(), torch.rand(7)), r"csm: expected x to be of shape \(N, \*input\).*x\[None\]"),
        (lambda: gradgeo.csm(mlp(), np.ones((3, 7))), r"csm: expected x to be a tensor, got an array of shape \(3, 7\)"),
        (lambda: gradgeo.csm(mlp(), torch.rand(3, 8)), r"csm: the model failed on inputs of shape \(N, 8\)"),
        (lambda: gradgeo.csm("net", torch.rand(3, 7)), r"csm: expected model to be a torch.nn.Module or a function"),
        (lambda: gradgeo.csm(mlp(), torch.rand(3, 7), loss="nll"), r"expected loss to be one of 'cross_entropy'"),
        (lambda: gradgeo.csm(mlp(), torch.rand(3, 7), temperature=0.0), r"expected temperature to be a positive"),
        (lambda: gradgeo.csm(mlp(), torch.rand(3, 7), classes=5), r"expected classes to be between 2 and 4"),
        (lambda: gradgeo.csm(mlp(), torch.rand(3, 7), classes=torch.tensor([0, 4])), r"classes to be within 0\.\.3"),
        (lambda: gradgeo.csm(mlp(), torch.rand(3, 7), classes=torch.tensor([1, 1])), r"classes to be without repetition"),
        (lambda: gradgeo.csm(mlp(), torch.rand(3, 7), classes=torch.rand(2)), r"an integer tensor of shape \(K,\)"),
        (lambda: gradgeo.csm(mlp(), torch.rand(3, 7), chunk_size=0), r"expected chunk_size to be a positive integer"),
        (lambda: gradgeo.csm(mlp(7, 1), torch.rand(3, 7)), r"expected the model to return at least 2 class scores"),
        (lambda: gradgeo.csm(lambda x: x.sum(), torch.rand(3, 7)), r"return logits of shape \(N, C\), got shape \(\)"),
        (lambda: gradgeo.csm(lambda x: x.detach(), torch.rand(3, 7)), r"cannot be differentiated"),
        (lambda: gradgeo.csm(lambda x: torch.ones(len(x), 3, requires_grad=True), torch.rand(3, 7)), r"does not depend"),
        (lambda: gradgeo.csm_statistics(torch.rand(2, 3, 4), torch.zeros(2).long()), r"csm to be .* \(N, K, K\)"),
        (lambda: gradgeo.csm_statistics(torch.rand(2, 1, 1), torch.zeros(2).long()), r"at least 2 classes"),
        (lambda: gradgeo.csm_statistics(torch.rand(2, 3, 3), torch.tensor([0, 3])), r"position 0"),
        (lambda: gradgeo.csm_statistics(torch.rand(2, 3, 3), torch.zeros(3).long()), r"integer tensor of shape \(2,\)"),
        (lambda: gradgeo.cosine_similarity_matrix(torch.rand(3, 4)), r"maps to be .* \(N, K, \*input\)"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(GradgeoError, match=message):
        call()


@pytest.mark.parametrize("integers", [True, False])
def test_products_of_signs_are_exact(integers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_integers_are_faster", lambda: integers)
    monkeypatch.setattr(similarity, "COLUMNS", 50)
    signs = torch.randint(-1, 2, (600, 77), generator=torch.Generator().manual_seed(0))
    assert torch.equal(similarity.products_of_signs(signs.to(torch.int8)), (signs @ signs.T).double())


def test_the_way_to_multiply_signs_is_the_faster_one_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one processor the integer product takes a fifth of the other's time, on another twenty times as much."""
    measured = similarity._integers_are_faster.__wrapped__
    for slow, faster in ((similarity._float_product, True), (similarity._integer_product, False)):
        monkeypatch.setattr(similarity, "_quickest", lambda multiply, signs, slow=slow: float(multiply is slow))
        assert measured() is faster


def test_a_pytorch_without_the_integer_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_int_mm")
    assert not similarity._integers_are_faster.__wrapped__()
