"""The cosine similarity matrix (CSM) of saliency maps and its ten statistics (Schwinn et al. 2021, section 3)."""

import time
from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor

from gradgeo.classifier.wrapper import Model
from gradgeo.errors import expected, public
from gradgeo.geometry.chunking import MANY, map_chunks, memory_for
from gradgeo.geometry.jacobian import MAP_BYTES, InputJacobian
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Classes, Maps, without

STATISTICS: tuple[str, ...] = tuple(
    f"{group}_{name}" for group in ("s1", "s2") for name in ("mean", "max", "min", "std", "energy")
)
"""Names of the columns of `csm_statistics`: s1 are pairs without the predicted class, s2 pairs with it."""


@public
def cosine_similarity_matrix(maps: Tensor) -> Tensor:
    """The cosine of the angle between each two saliency maps of a sample: c_ij = <s_i, s_j> / (|s_i| |s_j|).

    Example:
        >>> maps = torch.tensor([[[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]])
        >>> cosine_similarity_matrix(maps)
        tensor([[[ 1.,  0., -1.],
                 [ 0.,  1.,  0.],
                 [-1.,  0.,  1.]]])

    Args:
        maps: (N, K, *input), floating point.

    Returns:
        (N, K, K), symmetric, in [-1, 1], with a unit diagonal; float32, or float64 for float64 maps. A map that is
        zero everywhere has no direction: its cosine with every other map is 0. NaN wherever a map holds NaN.

    Cost: N K^2 d multiplications.
    """
    if not isinstance(maps, Tensor) or not maps.is_floating_point() or maps.ndim < 3:
        raise expected("maps", "a floating-point tensor of shape (N, K, *input)", maps)
    rows = maps.flatten(2)  # (N, K, d)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    if rows.shape[2] == 0:
        raise expected("maps", "of at least one input entry", maps)
    # Dividing by the largest entry first keeps the squares of tiny gradients from underflowing.
    largest = rows.abs().amax(2, keepdim=True)  # (N, K, 1)
    rows = rows / torch.where(largest > 0, largest, torch.ones_like(largest))
    return cosines(rows @ rows.mT, rows.square().sum(2))


def cosines(products: Tensor, squares: Tensor) -> Tensor:
    """Cosines (..., K, K) of inner products (..., K, K) and squared lengths (..., K): c_ij = p_ij / sqrt(s_i s_j).

    Symmetric, in [-1, 1], with a unit diagonal, 0 beside zero lengths, NaN beside NaN. No value is read, so that
    exports can carry it.
    """
    # For signed maps products and squared lengths are exact integers; one rounding in the root of their product.
    scale = torch.sqrt(squares[..., :, None] * squares[..., None, :])
    ratios = (products / torch.where(scale > 0, scale, 1.0)).clamp(-1, 1)
    diagonal = torch.where(squares.isnan(), torch.nan, torch.ones_like(squares))
    # A product may round otherwise than its mirror; the mean of two that agree, as for signs, is what they are.
    return torch.diagonal_scatter((ratios + ratios.mT) / 2, diagonal, dim1=-2, dim2=-1)


@public
def csm(
    model: Model,
    x: Tensor,
    *,
    loss: str = "cross_entropy",
    classes: Classes = None,
    sign: bool = True,
    temperature: float | None = None,
    rescale: bool = False,
    channel_max: bool = False,
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    precision: str = "float32",
) -> Tensor:
    """The cosine similarity matrix of the saliency maps of `x`, without ever holding the maps of all samples.

    Example:
        >>> import torch, gradgeo
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> gradgeo.csm(model, torch.rand(4, 3, 2, 2)).shape
        torch.Size([4, 5, 5])

    Args: as in `saliency_maps`; `precision="bfloat16"` is for screening, never for a decision threshold.

    Returns:
        (N, K, K) as in `cosine_similarity_matrix`, on the model's device. NaN for samples with NaN or infinite inputs
        or logits.

    Cost: that of `saliency_maps`. Memory: within `memory_budget`; a signed map is kept as one byte an entry.

    Raises: as `saliency_maps`.
    """
    options = Maps(Loss(loss, temperature, rescale), classes, sign, channel_max)
    result: list[Tensor] = []  # of all samples, once the first pass says how many classes there are

    def measure(jacobian: InputJacobian, rows: slice) -> None:
        chosen = options.part(rows)
        if not result:  # all samples' at once: gathering them would take the result's memory twice
            result.append(_matrices(len(x), chosen.count(jacobian.logits.shape[1]), jacobian))
        csm_of(jacobian, chosen, memory_for(memory_budget, jacobian.x.device), out=result[0][rows])

    map_chunks(
        model,
        [x],
        options,
        measure,
        chunk_size=chunk_size,
        memory_budget=memory_budget,
        precision=precision,
        streamed=True,
        once=True,
    )
    return result[0]


def csm_of(
    jacobian: InputJacobian,
    options: Maps,
    budget: int = MAP_BYTES,
    *,
    out: Tensor | None = None,
    gradients: Tensor | None = None,
) -> Tensor:
    """The cosine similarity matrix (N, K, K) of the maps of a pass, which are not all held at once where there are
    many of them; what is computed in between takes about `budget` bytes. NaN for samples that are not usable.

    `gradients` are those of the losses (N, K, *input), where they are there already."""
    k = options.count(jacobian.logits.shape[1])
    many = k >= MANY and not jacobian.differentiable
    products: Iterable[Tensor] | None = None  # of each sample, (K, K)
    if many and options.sign:
        products = map(products_of_signs, _signs(jacobian, options, budget, gradients))
    elif many and not options.channel_max:
        products = jacobian.grams(options)
    if products is None:
        matrices = cosine_similarity_matrix(jacobian.maps(options, gradients))
        return matrices if out is None else out.copy_(matrices)
    out = _matrices(len(jacobian.logits), k, jacobian) if out is None else out
    for i, product in enumerate(products):  # one by one: in float64, and with what cosines take, each is large
        out[i] = cosines(product, product.diagonal())
    out[~jacobian.usable] = torch.nan
    return out


def _matrices(n: int, k: int, jacobian: InputJacobian) -> Tensor:
    """Room for (n, k, k) cosines."""
    dtype = torch.promote_types(jacobian.logits.dtype, torch.float32)
    return jacobian.logits.new_empty(n, k, k, dtype=dtype)


def _signs(jacobian: InputJacobian, options: Maps, budget: int, gradients: Tensor | None) -> Tensor:
    """The signed maps (N, K, d) as int8, a quarter of what float32 takes; d without channels if `channel_max`."""
    start, k = 0, options.count(jacobian.logits.shape[1])
    signs = torch.empty(0)
    for chunk in jacobian.iter_map_chunks(options, budget, gradients):  # (N, k, *input)
        if start == 0:
            signs = torch.empty(len(chunk), k, chunk[:, :1].flatten(1).shape[1], dtype=torch.int8, device=chunk.device)
        signs[:, start : start + chunk.shape[1]] = chunk.flatten(2)
        start += chunk.shape[1]
    return signs


BLOCK = 256
"""Rows of a product at a time: below the diagonal it is the mirror of what is above."""

COLUMNS = 1 << 14
"""Columns that are float32 at a time where the product is not of integers: 64 KiB a row, and sums stay far below 2^24,
up to which float32 holds every integer."""


def products_of_signs(rows: Tensor) -> Tensor:
    """rows rows^T (K, K) of signs (K, d) as int8, exact, float64."""
    k = len(rows)
    multiply = _integer_product if rows.device.type == "cpu" and _integers_are_faster() else _float_product
    products = torch.empty(k, k, dtype=torch.float64, device=rows.device)
    for start in range(0, k, BLOCK):
        block = slice(start, start + BLOCK)
        product = multiply(rows[block], rows[start:]).double()  # (BLOCK, K - start)
        products[block, start:], products[start:, block] = product, product.mT
    return products


def _integer_product(a: Tensor, b: Tensor) -> Tensor:
    return torch._int_mm(a, b.mT)


def _float_product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of signs, by float32 products that are exact, summed in float64."""
    product = a.new_zeros(len(a), len(b), dtype=torch.float64)
    for p, q in zip(a.split(COLUMNS, dim=1), b.split(COLUMNS, dim=1), strict=True):
        product += p.float() @ q.float().mT
    return product


@cache
def _integers_are_faster() -> bool:
    """Whether the integer product is the faster one here; measured once per process, in about a millisecond.

    Both are exact, so which is taken changes no result. It depends on more than a name of a processor tells: of 100 x
    3,072 signs the integer product takes .3 ms and the float32 one 1.6 where the CPU has AVX-512 VNNI (Xeon 8373C
    class, one thread), but 21 and .85 where it has AVX2 alone, for there PyTorch's is a plain loop.
    """
    signs = torch.ones(64, 1024, dtype=torch.int8)
    try:
        integers = _quickest(_integer_product, signs)
    except (AttributeError, RuntimeError):  # a private function, which not every build has
        return False
    return integers < _quickest(_float_product, signs)


def _quickest(multiply: Callable[[Tensor, Tensor], Tensor], signs: Tensor) -> float:
    """Seconds of the quickest of three, after one that may load a library."""
    multiply(signs, signs)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        multiply(signs, signs)
        times.append(time.perf_counter() - start)
    return min(times)


@public
def csm_statistics(csm: Tensor, predicted: Tensor) -> Tensor:
    """Mean, maximum, minimum, standard deviation and energy (mean square) of S1 and of S2.

    S2 are the cosines c_ij, i < j, that involve the predicted class; S1 those that do not.

    Example:
        >>> matrix = torch.tensor([[[1.0, 0.5, -0.5], [0.5, 1.0, 0.0], [-0.5, 0.0, 1.0]]])
        >>> dict(zip(STATISTICS, csm_statistics(matrix, torch.tensor([0]))[0].tolist(), strict=True))["s2_energy"]
        0.25

    Args:
        csm: (N, K, K), K >= 2. Only the upper triangle and the predicted row are read.
        predicted: (N,) integer: the *position* of the predicted class among the K (the class itself when all classes
            have maps; 0 for `classes=int`).

    Returns:
        (N, 10), columns named by `STATISTICS`, in the dtype of `csm`. The standard deviation is the population's
        (divides by the count). With K = 2 there is no pair without the predicted class: the S1 columns are 0.
    """
    if not isinstance(csm, Tensor) or not csm.is_floating_point() or csm.ndim != 3 or csm.shape[1] != csm.shape[2]:
        raise expected("csm", "a floating-point tensor of shape (N, K, K)", csm)
    n, k, _ = csm.shape
    if k < 2:
        raise expected("csm", "of at least 2 classes", csm)
    if not isinstance(predicted, Tensor) or predicted.is_floating_point() or predicted.shape != (n,):
        raise expected("predicted", f"an integer tensor of shape ({n},)", predicted)
    if n and not (int(predicted.min()) >= 0 and int(predicted.max()) < k):
        raise expected(
            "predicted",
            f"positions within 0..{k - 1}",
            f"{int(predicted.min())}..{int(predicted.max())}",
            "With classes=int the predicted class is at position 0.",
        )
    return statistics_of(csm, predicted.to(csm.device).long())


def statistics_of(csm: Tensor, predicted: Tensor) -> Tensor:
    """`csm_statistics` of arguments known to be right: by indices alone, no value is read, so that exports can carry
    it."""
    n, k, _ = csm.shape
    others, at = without(predicted, k), predicted[:, None, None]
    row, column = csm.gather(1, at.expand(n, 1, k))[:, 0], csm.gather(2, at.expand(n, k, 1))[..., 0]
    above = torch.arange(k, device=csm.device) < predicted[:, None]
    with_predicted = torch.where(above, column, row).gather(1, others)
    rest = csm.gather(1, others[:, :, None].expand(n, k - 1, k)).gather(2, others[:, None, :].expand(n, k - 1, k - 1))
    first, second = torch.triu_indices(k - 1, k - 1, offset=1, device=csm.device)
    return torch.cat([_moments(rest[:, first, second]), _moments(with_predicted)], dim=1)


GRID = 2.0**40
"""Statistics of float64 cosines are multiples of its inverse, 1e-12."""


def _moments(values: Tensor) -> Tensor:
    """(N, M) -> mean, max, min, std, energy (N, 5); zeros for M = 0.

    Sums of float32 cosines are exact in float64, so they do not depend on the order of the pairs or on the machine.
    Cosines of signs are few fractions, of which many inputs have the same: an ulp would part what is equal.
    """
    if values.shape[0] == 0 or values.shape[1] == 0:
        return values.new_zeros(values.shape[0], 5)
    exact = values.double()
    columns = (exact.mean(1), exact.amax(1), exact.amin(1), exact.std(1, correction=0), exact.square().mean(1))
    moments = torch.stack(columns, dim=1)  # (N, 5)
    if values.dtype == torch.float64:  # no rounding to a narrower type hides in which order the sums were made
        rounded = (moments.detach() * GRID).round() / GRID
        return moments + (rounded - moments.detach())  # rounding has no slope
    return moments.to(values.dtype)
