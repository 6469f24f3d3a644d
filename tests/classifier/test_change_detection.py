"""A classifier is kept from call to call, and never is stale."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo.classifier.wrapper import Classifier
from helpers.folding import Residual, trained


def changes() -> dict[str, Callable[[Residual], object]]:
    def in_place(model: Residual) -> None:
        with torch.no_grad():
            model.conv1.weight.neg_()

    def swap(model: Residual) -> None:
        model.conv2 = nn.Conv2d(6, 6, 1)

    def double(model: Residual) -> None:
        other = {name: 2 * value for name, value in model.state_dict().items() if "num_batches" not in name}
        model.load_state_dict(other, strict=False)

    return {
        "in place": in_place,
        "through .data": lambda model: model.conv1.weight.data.neg_(),
        "another buffer": lambda model: model.bn1.running_mean.add_(1),
        "load_state_dict": double,
        "another module": swap,
        "a setting": lambda model: setattr(model.bn1, "eps", 3.0),
        "float64": lambda model: model.double(),
        "a hook": lambda model: model.bn1.register_forward_hook(lambda module, args, output: 2 * output),
        "another forward": lambda model: setattr(model, "forward", lambda x: model.head(x.mean((2, 3)).repeat(1, 2))),
    }


@pytest.mark.parametrize("change", changes().values(), ids=changes())
def test_a_changed_model_is_noticed(change: Callable[[Residual], object]) -> None:
    torch.manual_seed(0)
    model, x = trained(Residual()), torch.rand(2, 3, 9, 8)
    before = gradgeo.csm(model, x, sign=False)
    assert Classifier.of(model) is Classifier.of(model)
    change(model)
    after = gradgeo.csm(model, x, sign=False)
    exact = reference_csm(model, x)
    assert (after.double() - exact).abs().max() <= 1e-4
    assert after.dtype != before.dtype or (after - before).abs().max() > 1e-3


def reference_csm(model: nn.Module, x: Tensor) -> Tensor:
    """Of the model as it stands: a copy would not have its new forward."""
    leaf = x.to(next(model.parameters()).dtype).requires_grad_()
    losses = -model(leaf).log_softmax(1).sum(0)
    maps = torch.stack([torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in losses], dim=1)
    return gradgeo.cosine_similarity_matrix(maps.double())


def test_an_unchanged_model_is_copied_once_and_not_kept_alive() -> None:
    model = trained(Residual())
    x = torch.rand(2, 3, 9, 8)
    first = Classifier.of(model)
    model.train()
    model.eval()
    gradgeo.csm(model, x)
    assert Classifier.of(model) is first
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
