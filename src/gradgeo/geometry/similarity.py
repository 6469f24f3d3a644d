"""The cosine similarity matrix (CSM) of saliency maps and its ten statistics (Schwinn et al. 2021, section 3)."""

from collections.abc import Iterable

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
    rows = maps.flatten(2)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    if rows.shape[2] == 0:
        raise expected("maps", "of at least one input entry", maps)
    # Dividing by the largest entry first keeps the squares of tiny gradients from underflowing.
    largest = rows.abs().amax(2, keepdim=True)
    rows = rows / torch.where(largest > 0, largest, torch.ones_like(largest))
    norms = rows.square().sum(2)
    # For signed maps products and squared norms are exact integers; one rounding in the root of their product.
    scale = torch.sqrt(norms[:, :, None] * norms[:, None, :])
    cosines = (rows @ rows.mT / torch.where(scale == 0, torch.ones_like(scale), scale)).clamp(-1, 1)
    diagonal = torch.where(norms.isnan(), torch.nan, torch.ones_like(norms))
    # A product may round otherwise than its mirror; the mean of two that agree, as for signs, is what they are.
    return torch.diagonal_scatter((cosines + cosines.mT) / 2, diagonal, dim1=1, dim2=2)


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


BLOCK = 256
"""Rows of a product at a time: below the diagonal it is the mirror of what is above."""


def csm_of(forward: InputJacobian, options: Maps, budget: int = MAP_BYTES, *, out: Tensor | None = None) -> Tensor:
    """The cosine similarity matrix (N, K, K) of the maps of a pass, which are not all held at once where there are
    many of them; what is made in between takes about `budget` bytes. NaN for samples that are not usable."""
    k = options.count(forward.logits.shape[1])
    many = k >= MANY and not forward.differentiable
    products: Iterable[Tensor] | None = None
    if many and options.sign:
        products = map(products_of_signs, _signs(forward, options, budget))
    elif many and not options.channel_max:
        products = forward.grams(options)
    if products is None:
        matrices = cosine_similarity_matrix(forward.maps(options))
        return matrices if out is None else out.copy_(matrices)
    out = _matrices(len(forward.logits), k, forward) if out is None else out
    for i, product in enumerate(products):  # in float64, and with what cosines take, one sample's matrix is large
        out[i] = cosines_of(product)
    out[~forward.usable] = torch.nan
    return out


def _matrices(n: int, k: int, forward: InputJacobian) -> Tensor:
    """Room for (n, k, k) cosines."""
    dtype = torch.promote_types(forward.logits.dtype, torch.float32)
    return forward.logits.new_empty(n, k, k, dtype=dtype)


def _signs(forward: InputJacobian, options: Maps, budget: int) -> Tensor:
    """The signed maps (N, K, d) as int8."""
    start, k = 0, options.count(forward.logits.shape[1])
    signs = torch.empty(0)
    for part in forward.iter_map_chunks(options, budget):
        if start == 0:
            signs = torch.empty(len(part), k, part[:, :1].flatten(1).shape[1], dtype=torch.int8, device=part.device)
        signs[:, start : start + part.shape[1]] = part.flatten(2)
        start += part.shape[1]
    return signs


def products_of_signs(rows: Tensor) -> Tensor:
    """rows rows^T (K, K) of signs (K, d), exact, float64."""
    k = len(rows)
    products = torch.empty(k, k, dtype=torch.float64, device=rows.device)
    for start in range(0, k, BLOCK):
        block = slice(start, start + BLOCK)
        product = _integer_product(rows[block], rows[start:]).double()
        products[block, start:], products[start:, block] = product, product.mT
    return products


def _integer_product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of int8 matrices: in integers where this PyTorch can, else in float32, whose sums are exact up to 2^24."""
    if a.device.type == "cpu":
        try:
            return torch._int_mm(a, b.mT)
        except (AttributeError, RuntimeError):  # a private function, which not every build has
            pass
    product = a.new_zeros(len(a), len(b), dtype=torch.float64)
    for p, q in zip(a.split(1 << 24, dim=1), b.split(1 << 24, dim=1), strict=True):
        product += p.float() @ q.float().mT
    return product


def cosines_of(products: Tensor) -> Tensor:
    """Inner products (..., K, K) -> cosines; those of zero maps are 0, the diagonal is 1."""
    roots = products.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = roots[..., :, None] * roots[..., None, :]
    cosines = (products / torch.where(scale > 0, scale, 1.0)).clamp(-1, 1)
    return torch.diagonal_scatter((cosines + cosines.mT) / 2, torch.ones_like(roots), dim1=-2, dim2=-1)


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
    found = torch.stack(columns, dim=1)
    if values.dtype == torch.float64:  # no rounding to a narrower type hides in which order the sums were made
        rounded = (found.detach() * GRID).round() / GRID
        return found + (rounded - found.detach())  # rounding has no slope
    return found.to(values.dtype)
