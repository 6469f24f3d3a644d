"""The hub's own client with its network taken away: what would be sent, and what comes back."""

import shutil
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from torch import Tensor

from gradgeo import Detector
from gradgeo.errors import ArgumentError, DataError, DetectorFileError
from gradgeo.integrations.huggingface import from_pretrained, push_to_hub
from helpers.nets import network

hub: Any = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """What is sent to the hub, in place of the network; calls must fit the library's own signatures."""
    api = create_autospec(hub.HfApi, instance=True)
    api.upload_file.side_effect = lambda **sent: shutil.copy(sent["path_or_fileobj"], tmp_path / sent["path_in_repo"])
    monkeypatch.setattr(hub, "HfApi", lambda token: api)
    download = create_autospec(hub.hf_hub_download)
    download.side_effect = lambda repo, name, **_: str(tmp_path / name)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    return api


def test_nothing_is_sent_without_a_yes(fitted: Detector, stored: Any) -> None:
    for answer in (False, 1, "yes"):
        with pytest.raises(ArgumentError, match="measurements of 59 calibration inputs"):
            push_to_hub(fitted, "lab/net", publish_measurements=answer)  # type: ignore[arg-type]
    assert stored.method_calls == []


def test_a_detector_goes_there_and_back(fitted: Detector, x: Tensor, stored: Any) -> None:
    push_to_hub(fitted, "lab/net", publish_measurements=True)
    stored.create_repo.assert_called_once_with("lab/net", repo_type="model", private=True, exist_ok=True)
    back = from_pretrained("lab/net", fitted.model)
    assert back.digest() == fitted.digest()
    assert torch.equal(back.predict(x).trusted, fitted.predict(x).trusted)
    with pytest.raises(DetectorFileError, match="SHA-256"):
        from_pretrained("lab/net", fitted.model, sha256="0" * 64)
    with pytest.raises(DetectorFileError, match="another model"):
        from_pretrained("lab/net", network(inputs=48, seed=3).eval())


def test_a_hub_that_cannot_be_reached(fitted: Detector, stored: Any) -> None:
    stored.create_repo.side_effect = ConnectionError("no route")
    with pytest.raises(DataError, match="lab/net cannot be written: ConnectionError: no route"):
        push_to_hub(fitted, "lab/net", publish_measurements=True)
    hub.hf_hub_download.side_effect = hub.errors.EntryNotFoundError("404")
    with pytest.raises(DataError, match=r"detector\.gradgeo of lab/net cannot be read: EntryNotFoundError"):
        from_pretrained("lab/net", fitted.model)
