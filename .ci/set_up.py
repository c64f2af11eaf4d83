#!/usr/bin/env python3
"""
Prepare .venv for this repository. Needs Python 3.10 to 3.13 and nothing else; may be run again.

Where ``import detectron2`` already works, .venv sees that installation and only what is missing is
added. Otherwise torch, torchvision and the rest are installed at the versions of constraints.txt,
and Detectron2 as the PyPI package sal-detectron2 (see docs/installation.md).
"""

import configparser
import hashlib
import importlib.util
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
# Says that this script made .venv, and from what.
STAMP = os.path.join(VENV, "set_up")
CONSTRAINTS = os.path.join(ROOT, "constraints.txt")

NOT_INSTALLED = "a package could not be installed; the lines above say which. Is PyPI reachable?"
CHECK = """
import cv2, hotcoco, lvis, torch, torchvision, detectron2.engine, eql_seesaw.modeling
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
"""


def main() -> None:
    if not (3, 10) <= sys.version_info < (3, 14):  # noqa: UP036 (this is the check)
        sys.exit(
            f"error: Python 3.10 to 3.13 is needed, this is {sys.version.split()[0]}; "
            "name another one: make PYTHON=python3.11 ..."
        )
    fingerprint = fingerprint_of_inputs()
    if os.path.exists(STAMP) and read(STAMP) == fingerprint:
        return
    has_detectron2 = importlib.util.find_spec("detectron2") is not None
    create_environment()
    if has_detectron2:
        print("Detectron2 is installed already and is used as it is", flush=True)
        see_packages_of_this_python()
        install_beside_detectron2()
    else:
        install_all()
    pip("--no-deps", "--editable", ROOT)
    run(
        [PYTHON, "-W", "ignore", "-c", CHECK],
        "the installed packages do not work together; the lines above say why. Remove .venv and "
        "try again, or use an environment of your own (docs/installation.md)",
    )
    with open(STAMP, "w") as f:
        f.write(fingerprint)
    print("Done. For commands outside make: source .venv/bin/activate", flush=True)


def fingerprint_of_inputs() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for name in (CONSTRAINTS, os.path.join(ROOT, "setup.cfg"), os.path.abspath(__file__)):
        digest.update(read(name).encode())
    return digest.hexdigest()


def create_environment() -> None:
    print(f"Setting up {VENV}", flush=True)
    if os.path.exists(VENV) and not os.path.exists(STAMP):
        sys.exit(f"error: {VENV} was not made by this set-up; move it away and try again")
    run(
        [sys.executable, "-m", "venv", "--clear", VENV],
        "python3 cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv",
    )
    with open(STAMP, "w") as f:
        f.write("unfinished")


def site_packages() -> str:
    command = [PYTHON, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    return subprocess.check_output(command, text=True).strip()


def see_packages_of_this_python() -> None:
    """
    Unlike --system-site-packages this also works from inside another virtual environment. What is
    installed in .venv goes first.
    """
    folders = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    with open(os.path.join(site_packages(), "outer_packages.pth"), "w") as f:
        f.writelines(f"import site; site.addsitedir({path!r})\n" for path in folders)


def requirements() -> list[str]:
    """Those of setup.cfg, but for OpenCV without the windows that bare servers cannot show."""
    config = configparser.ConfigParser()
    config.read(os.path.join(ROOT, "setup.cfg"))
    extras = config["options.extras_require"]
    lines = config["options"]["install_requires"] + extras["detectron2"] + extras["test"]
    names = [line.strip() for line in lines.splitlines()]
    names = [name for name in names if name and not name.startswith(("#", "lvis"))]
    return [name.replace("opencv-python", "opencv-python-headless") for name in names]


def install_all() -> None:
    pip(pinned("uv"))
    # lvis would bring the OpenCV that needs libGL.
    uv = [PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON, "--quiet"]
    run([*uv, "--constraint", CONSTRAINTS, *requirements()], NOT_INSTALLED)
    run([*uv, "--no-deps", pinned("lvis")], NOT_INSTALLED)
    # The wheel is tagged for Python 3.10 because of a compiled module that is not needed; its
    # Python code runs on later versions too.
    foreign = ["--only-binary=:all:", "--python-version", "3.10", "--target", site_packages()]
    pip("--no-deps", "--upgrade", *foreign, pinned("sal-detectron2"))


def install_beside_detectron2() -> None:
    """Only what is missing, and never another torch than the one Detectron2 was built with."""
    for module in ("torch", "torchvision"):
        if not has_module(module):
            sys.exit(f"error: Detectron2 is installed but {module} is not; install the two first")
    tools = ("pytest", "hypothesis", "ruff", "mypy", "pre-commit", "selenium")
    needed = [name for name in requirements() if not name.startswith(("torch", *tools))]
    if has_module("cv2"):
        needed = [name for name in needed if not name.startswith("opencv")]
    pip(*needed)
    pip("--no-deps", pinned("lvis"))
    pip("--constraint", CONSTRAINTS, *tools)


def has_module(name: str) -> bool:
    return subprocess.run([PYTHON, "-c", f"import {name}"], capture_output=True).returncode == 0


def pinned(package: str) -> str:
    return re.findall(rf"^{package}==[\w.]+", read(CONSTRAINTS), re.MULTILINE)[0]


def read(path: str) -> str:
    with open(path) as f:
        return f.read()


def pip(*arguments: str) -> None:
    pip_install = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run([*pip_install, *arguments], NOT_INSTALLED)


def run(command: list[str], error: str) -> None:
    if subprocess.run(command).returncode != 0:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
