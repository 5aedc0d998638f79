"""What leaves against what stays: the largest difference of exported models' outputs to mtpeft's, for each kind of export.

timm's own loading, Hugging Face PEFT, torch.export, and ONNX in onnxruntime: merged, kept, and as one trunk whose adapters are
inputs; on the embedded ViT with random adapters far from zero. The share is that of the largest output.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from _common import arguments, write

import mtpeft
from mtpeft.testing.case import perturb

FED = ("lora", "adaptformer", "houlsby", "ssf", "vpt_shallow", "vpt_deep", "prefix_tuning")
#: method, target, adapters
EXPORTS: tuple[tuple[str, Any, Any], ...] = (
    ("lora", "timm", None),
    ("lora", "peft", None),
    ("lora", "torch", "keep"),
    ("lora", "onnx", "merge"),
    ("lora", "onnx", "keep"),
    *((method, "onnx", "separate") for method in FED),
)


def main() -> None:
    """Export each and print the differences."""
    parser = arguments("export", __doc__)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {}
    for method, to, adapters in EXPORTS:
        torch.manual_seed(0)
        manager = mtpeft.attach("vit_mini_patch4_32", method)
        manager.add_task("birds", num_classes=10)
        manager.add_task("cars", num_classes=5)
        perturb(manager)
        with torch.no_grad():
            largest = float(manager.eval()(torch.randn(8, 3, 32, 32), "birds").abs().max())
        with tempfile.TemporaryDirectory() as folder:
            task = None if adapters == "separate" else "birds"
            written = mtpeft.export(manager, task, to=to, adapters=adapters, path=Path(folder) / "out")
        name, share = f"{method}, {to}, {written.adapters}", written.difference / largest
        results[name] = {"difference": written.difference, "share": share}
        print(f"{name:40}{written.difference:12.1e}{share:12.1e}", flush=True)
    write(options, results)


if __name__ == "__main__":
    main()
