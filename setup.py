"""Packaging: what is installed, and with which extras. Tool settings live in pyproject.toml.

`kernels/` stays at the top level for its readers and is imported as `minillm.kernels` through the
relative symlink minillm/kernels; namespace discovery follows the link into wheel and sdist alike.
`tutorials/` comes along in the same way, for `minillm learn`.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

_LINUX = "; platform_system == 'Linux' and platform_machine in 'x86_64 aarch64'"
# Compiles CUDA C++ to machine code, and reads it, without a GPU: for the tests of every .cu file.
_TOOLKIT = [
    "cuda-bindings==13.0.*",
    "nvidia-cuda-nvrtc==13.0.*",
    "nvidia-cuda-cuobjdump==13.2.*",  # the first on PyPI; reads what 13.0 writes
    "nvidia-cuda-nvdisasm==13.2.*",
]

EXTRAS = {
    "mpi": ["mpich"],  # brings its own mpirun, which takes `-n 4` as root and on two cores
    "cuda12": ["cupy-cuda12x[ctk]>=14", "numba-cuda[cu12]"],
    "cuda13": ["cupy-cuda13x[ctk]>=14", "numba-cuda[cu13]"],
    "toolkit": [requirement + _LINUX for requirement in _TOOLKIT],
    "bench": ["torch", "pytest", "pytest-benchmark"],
    "docs": ["furo", "jupytext", "myst-parser", "sphinx>=8", "sphinxcontrib-mermaid"],
    "test": [
        "hypothesis",
        "pytest",
        "pytest-benchmark",
        "pytest-timeout",
        "pytest-xdist>=3.6",
        "ruff",
        "sybil>=9",
    ],
}

setup(
    name="minillm",
    version="0.1.0",
    description="Train a large language model by hand: autograd, kernels, ring all-reduce.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_namespace_packages(include=["minillm", "minillm.*"]),
    package_data={"": ["py.typed", "*.md", "*.cu", "*.cuh", "*.h", "*.cpp", "*.html", "*.svg"]},
    install_requires=[
        "matplotlib>=3.8",
        "ml-dtypes>=0.4",
        "mpi4py>=4.0",
        "numba>=0.60",
        "numpy>=2.0",
        "pooch>=1.8",
        "rich>=13.7",
        "safetensors>=0.4",
        "threadpoolctl>=3.1",
        "tokenizers>=0.20",
        "tyro>=0.9",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["minillm=minillm.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX",
    ],
)
