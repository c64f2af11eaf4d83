"""What a benchmark ran on."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Beside torch and Detectron2: what the measured work runs in.
PACKAGES = (
    "torchvision",
    "numpy",
    "lvis",
    "hotcoco",
    "msgspec",
    "pycocotools",
    "pillow",
)


def describe_machine() -> dict[str, str]:
    """What must be the same for measurements to stand side by side, each as a text for people."""
    # They take seconds to import, and --help does without.
    import detectron2
    import torch

    return {
        "CPU": cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "OS": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        **{package: package_version(package) for package in PACKAGES},
        "PyTorch threads": str(torch.get_num_threads()),
    }


def cpu_model() -> str:
    """As Linux names it."""
    with open("/proc/cpuinfo") as f:
        models = [line.split(":")[1].strip() for line in f if line.startswith("model name")]
    return models[0] if models else platform.machine()


def package_version(package: str) -> str:
    """Of an installed package; "none" of one that is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def git_commit() -> str:
    """The commit of this code, with "-dirty" if files differ from it; "" without git."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    folder = Path(__file__).parent
    try:
        git = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return git.stdout.strip()
