"""The model card: what the folder is, from what it was made, what was measured, and how to load it."""

from __future__ import annotations

from mtpeft._version import __version__
from mtpeft.exports.facts import UNKNOWN
from mtpeft.exports.request import Request, Written

LOADING = {
    "timm": """```python
model = timm.create_model("local-dir:FOLDER", pretrained=True)
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```""",
    "onnx": """```python
session = onnxruntime.InferenceSession("FOLDER/model.onnx")
output = session.run(None, {"images": images})[0]
```""",
    "torch": """```python
model = torch.export.load("FOLDER/model.pt2").module()
output = model(images)
```""",
    "peft": """```python
base = timm.create_model("BACKBONE", pretrained=True, num_classes=CLASSES)
model = peft.PeftModel.from_pretrained(base, "FOLDER").eval()
manager = mtpeft.from_peft("FOLDER", "BACKBONE")  # back to mtpeft
```""",
    "separate": """```python
from runner import Runner  # runner.py of this folder: numpy, onnxruntime and safetensors

outputs = Runner("FOLDER")(images, ["TASK", ...])  # a task for every image
```""",
}


def card(request: Request, written: Written) -> str:
    """README.md of an export."""
    manager, facts = request.manager, request.facts
    tasks = ", ".join(request.tasks)
    backbone = facts.name_of(manager) or type(manager.backbone).__name__
    data = "; ".join(dict.fromkeys(facts.data[task] for task in request.tasks if task in facts.data)) or UNKNOWN
    methods = "; ".join(f"{a.spec.name} ({a.spec.paper}), {a.sharing_name}" for a in manager.methods)
    names = " + ".join(a.spec.name for a in manager.methods)
    counts = [f"{task}: {request.counts[task]:,}" for task in request.tasks]
    lines = [
        f"# {tasks}",
        "",
        f"{backbone} with {names}, written by mtpeft {__version__} ({request.to}, {written.adapters}).",
        "",
        "| | | licence |",
        "|---|---|---|",
        f"| backbone | {backbone} | {facts.licence('backbone', manager)} |",
        f"| data | {data} | {facts.licence('data', manager)} |",
        f"| code | mtpeft {__version__} | apache-2.0 |",
        "",
        f"- Method: {methods}",
        f"- Trained weights, head included: {'; '.join(counts)}",
        *(f"- {line}" for line in facts.figures),
        f"- Largest difference to mtpeft's outputs, batches of 1 and 3: {written.difference:.1e}",
        *_classes(request),
        "",
        "## Input",
        _input(request),
        "",
        "## Load",
        _loading(request, written),
        "",
    ]
    return "\n".join(lines)


def _classes(request: Request) -> list[str]:
    """The classes of each task, where they are few."""
    found = []
    for task in request.tasks:
        names = request.facts.classes.get(task, ())
        if names:
            shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all; see export.json)" if len(names) > 20 else "")
            found.append(f"- Classes of {task}, in the order of the outputs: {shown}")
    return found


def _input(request: Request) -> str:
    shown = request.facts.shown(request.manager)
    channels, height, width = shown["input_size"]
    shape = (
        f"(B, {channels}, {height}, {width})"
        if request.frames is None
        else f"(B, {channels}, {request.frames}, {height}, {width})"
    )
    return (
        f"Float32 {shape}, pixels in [0, 1], then (x - mean) / std with mean {shown['mean']} and std {shown['std']}; "
        f"resized by {shown.get('interpolation', 'bicubic')}, crop share {shown.get('crop_pct', 1.0)}."
    )


def _loading(request: Request, written: Written) -> str:
    text = LOADING["separate" if written.adapters == "separate" else request.to]
    outputs = request.outputs(request.tasks[0])
    backbone = request.facts.name_of(request.manager) or "BACKBONE"
    return text.replace("BACKBONE", backbone).replace("CLASSES", str(outputs)).replace("TASK", request.tasks[0])
