"""A detector on the Hugging Face hub, beside the model that it judges."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gradgeo.classifier.wrapper import Model
from gradgeo.detector.detector import Detector
from gradgeo.errors import DataError, expected, public, require

FILE = "detector.gradgeo"


@public
def push_to_hub(
    detector: Detector,
    repo_id: str,
    *,
    publish_measurements: bool = False,
    private: bool = True,
    path_in_repo: str = FILE,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Store a fitted detector in a model repository of the hub, which is made where it is missing; returns its URL.

    A detector file holds no inputs, but what the classifier's features, gradients and scores are on every calibration
    input, class by class, and the notes of `fit` (paths, names of classes and groups, the command). Of such
    measurements one may tell whether a person's data was among them. So nothing leaves the machine without a yes.

    Args:
        detector: fitted.
        repo_id: OWNER/NAME.
        publish_measurements: say True once whoever is responsible for the trusted inputs agrees.
        private: whether a repository that is made is private. It does not change one that exists.
        path_in_repo: the name of the file.
        revision: the branch; default the main one.
        token: default the one that `hf auth login` stored.

    Raises: ArgumentError without the yes, before anything is sent. DataError: the hub cannot be reached or refuses.
    """
    if publish_measurements is not True:
        raise expected(
            "publish_measurements",
            "True, an explicit yes",
            publish_measurements,
            f"The file holds measurements of {detector.calibration_size_} calibration inputs and the notes of fit. Ask "
            "whoever is responsible for that data first; detector.notes = {} leaves the notes out.",
        )
    hub = require("huggingface_hub", "hub")
    api = hub.HfApi(token=token)
    with TemporaryDirectory() as folder:
        file = Path(folder) / FILE
        detector.save(file)
        try:
            api.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
            done = api.upload_file(
                path_or_fileobj=file,
                path_in_repo=path_in_repo,
                repo_id=repo_id,
                revision=revision,
                commit_message=f"Detector {detector.digest()[:12]}",
            )
        except Exception as error:  # whatever the network and the library raise
            raise DataError(f"{repo_id} cannot be written: {_says(error)}") from error
    return str(getattr(done, "commit_url", done))


@public
def from_pretrained(
    repo_id: str,
    model: Model,
    *,
    sha256: str | None = None,
    filename: str = FILE,
    revision: str | None = None,
    token: str | None = None,
    strict: bool = True,
) -> Detector:
    """The detector of a model repository of the hub; the file is cached, and nothing in it is executed.

    Args:
        repo_id: OWNER/NAME.
        model: the classifier that it was fitted with, which `Detector.load` checks.
        sha256, strict: as in `Detector.load`. A commit as `revision` pins the file too.
        filename: its name in the repository.
        revision: a branch, tag or commit.
        token: as in `push_to_hub`.

    Raises: DataError: there is no such file, or no hub and it is not cached. DetectorFileError as `Detector.load`.
    """
    hub = require("huggingface_hub", "hub")
    try:
        file = hub.hf_hub_download(repo_id, filename, revision=revision, token=token)
    except Exception as error:  # a download fails in many ways
        raise DataError(f"{filename} of {repo_id} cannot be read: {_says(error)}") from error
    return Detector.load(file, model, sha256=sha256, strict=strict)


def _says(error: Any) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
