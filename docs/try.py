"""What the front page's canvas runs: `make try` writes it into docs/assets/try/.

The digits detector as ONNX with its explanation, and ONNX Runtime Web from npm (MIT), of one version whose bytes are
known.
"""

import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import onnx

import gradgeo
from gradgeo.data import digits

OUT = Path(__file__).parent / "assets" / "try"
RUNTIME, SHA256 = "onnxruntime-web@1.30.0", "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
EVIDENCE = "fast"


def detector() -> None:
    """The exported detector, and what the page must know of it."""
    parts = digits.split()
    fitted = gradgeo.Detector(digits.digits_classifier(), evidence=EVIDENCE, alpha=0.05).fit(*parts["fit"])
    agreement = gradgeo.export.onnx(fitted, parts["test"][0][:32], OUT / "detector.onnx", explain=True)
    found = {entry.key: entry.value for entry in onnx.load(OUT / "detector.onnx").metadata_props}
    about = {"alpha": fitted.alpha, "digest": fitted.digest()}
    about |= {name: json.loads(found[name]) for name in ("questions", "causes")}
    (OUT / "detector.json").write_text(json.dumps(about) + "\n")
    print(agreement)


def runtime() -> None:
    """ONNX Runtime Web. Raises: SystemExit where npm gives other bytes."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", RUNTIME], cwd=folder, check=True)
        (packed,) = Path(folder).glob("*.tgz")
        if hashlib.sha256(packed.read_bytes()).hexdigest() != SHA256:
            raise SystemExit(f"{RUNTIME} from npm is of other bytes than known. Look at it before you change SHA256.")
        with tarfile.open(packed) as archive:
            for name in FILES:
                stream = archive.extractfile(f"package/dist/{name}")
                assert stream is not None
                (OUT / name).write_bytes(stream.read())


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    detector()
    runtime()
    for path in sorted(OUT.iterdir()):
        print(f"{path.stat().st_size:>12,} {path.name}")
