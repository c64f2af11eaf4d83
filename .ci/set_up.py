#!/usr/bin/env python3
"""
Prepare .venv for this repository. Needs Python >= 3.10 and nothing else; may be run again.

Where ``import detectron2`` already works, .venv sees that installation and only what is missing is
added. Otherwise torch, torchvision and the rest are installed at the versions of constraints.txt,
and Detectron2 as the PyPI package sal-detectron2 (see README.md).
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
STAMP = os.path.join(VENV, "set_up")
CONSTRAINTS = os.path.join(ROOT, "constraints.txt")

CHECK = """
import cv2, lvis, torch, torchvision, detectron2.engine, eql_seesaw.modeling
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
"""


def main():
    if sys.version_info < (3, 10):  # noqa: UP036 (this is the check)
        sys.exit(
            f"error: Python 3.10 or later is needed, this is {sys.version.split()[0]}; "
            "name another one: make PYTHON=python3.11 ..."
        )
    fingerprint = fingerprint_of_inputs()
    if os.path.exists(STAMP) and open(STAMP).read() == fingerprint:
        return
    has_detectron2 = importlib.util.find_spec("detectron2") is not None
    create_environment(has_detectron2)
    if has_detectron2:
        print("Detectron2 is installed already and is used as it is", flush=True)
        install_beside_detectron2()
    else:
        install_all()
    pip("--no-deps", "--no-build-isolation", "--editable", ROOT)
    run(
        [PYTHON, "-W", "ignore", "-c", CHECK],
        "the installed packages do not work together; the lines above say why. Remove .venv and "
        "try again, or use an environment of your own (README.md, Installation)",
    )
    with open(STAMP, "w") as f:
        f.write(fingerprint)


def fingerprint_of_inputs():
    digest = hashlib.sha256(sys.version.encode())
    for name in (CONSTRAINTS, os.path.join(ROOT, "setup.cfg"), os.path.abspath(__file__)):
        with open(name, "rb") as f:
            digest.update(f.read())
    return digest.hexdigest()


def create_environment(see_system_packages):
    print(f"Setting up {VENV}", flush=True)
    options = ["--clear"] + ["--system-site-packages"] * see_system_packages
    run(
        [sys.executable, "-m", "venv", *options, VENV],
        "python3 cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv",
    )


def requirements():
    """Those of setup.cfg, but for OpenCV without the windows that bare servers cannot show."""
    config = configparser.ConfigParser()
    config.read(os.path.join(ROOT, "setup.cfg"))
    lines = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    names = [line.strip() for line in lines.splitlines()]
    names = [name for name in names if name and not name.startswith(("#", "lvis"))]
    return [name.replace("opencv-python", "opencv-python-headless") for name in names]


def install_all():
    pip(pinned("uv"))
    # lvis would bring the OpenCV that needs libGL.
    uv = [PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON, "--quiet"]
    download = "a package could not be installed; the lines above say which. Is PyPI reachable?"
    run([*uv, "--constraint", CONSTRAINTS, *requirements()], download)
    run([*uv, "--no-deps", pinned("lvis")], download)
    # The wheel is tagged for Python 3.10 because of a compiled module that is not needed; its
    # Python code runs on later versions too.
    site_packages = subprocess.check_output(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], text=True
    ).strip()
    foreign = ["--only-binary=:all:", "--python-version", "3.10", "--target", site_packages]
    pip("--no-deps", "--upgrade", *foreign, pinned("sal-detectron2"))


def install_beside_detectron2():
    needed = requirements()
    if subprocess.run([PYTHON, "-c", "import cv2"], capture_output=True).returncode == 0:
        needed = [name for name in needed if not name.startswith("opencv")]
    pip(*needed)
    pip("--no-deps", pinned("lvis"))


def pinned(package):
    with open(CONSTRAINTS) as f:
        return re.search(rf"^{package}==\S+", f.read(), re.MULTILINE).group()


def pip(*arguments):
    run(
        [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *arguments],
        "a package could not be installed; the lines above say which. Is PyPI reachable?",
    )


def run(command, error):
    if subprocess.run(command).returncode != 0:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
