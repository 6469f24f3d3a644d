"""The cosine similarity matrix (CSM) of saliency maps and its ten statistics (Schwinn et al. 2021, section 3)."""

import torch
from torch import Tensor

from gradgeo.classifier import Model
from gradgeo.errors import expected, public
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.saliency import Classes, ForwardPass, Maps, over_passes

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
    return torch.diagonal_scatter(cosines, diagonal, dim1=1, dim2=2)


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
) -> Tensor:
    """The cosine similarity matrix of the saliency maps of `x`, without ever holding the maps of all samples.

    Example:
        >>> import torch, gradgeo
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> gradgeo.csm(model, torch.rand(4, 3, 2, 2)).shape
        torch.Size([4, 5, 5])

    Args: as in `saliency_maps`.

    Returns:
        (N, K, K) as in `cosine_similarity_matrix`, on the model's device. NaN for samples with NaN or infinite inputs
        or logits.

    Cost: one forward and K backward passes per sample; memory for the maps of one chunk, at most 1 GiB unless one
    sample alone needs more.

    Raises: as `saliency_maps`.
    """
    options = Maps(Loss(loss, temperature, rescale), classes, sign, channel_max)

    def measure(forward: ForwardPass, options: Maps) -> Tensor:
        return cosine_similarity_matrix(forward.maps(options))

    return torch.cat(over_passes(model, [x], options, chunk_size, measure))


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
    predicted = predicted.to(csm.device).long()
    first, second = torch.triu_indices(k, k, offset=1, device=csm.device)
    pairs = csm[:, first, second]
    own = (first == predicted[:, None]) | (second == predicted[:, None])
    with_predicted = pairs[own].view(n, k - 1)
    without = pairs[~own].view(n, (k - 1) * (k - 2) // 2)
    return torch.cat([_moments(without), _moments(with_predicted)], dim=1)


def _moments(values: Tensor) -> Tensor:
    """(N, M) -> mean, max, min, std, energy (N, 5); zeros for M = 0."""
    if values.numel() == 0:
        return values.new_zeros(len(values), 5)
    return torch.stack(
        [
            values.mean(1),
            values.amax(1),
            values.amin(1),
            values.std(1, correction=0),
            values.square().mean(1),
        ],
        dim=1,
    )
