#!/usr/bin/env python3
"""
Write constraints.txt anew from the ranges of setup.cfg, for Python 3.10 to 3.13 on Linux. Versions
stay as they are, but for the packages that are named, which move to their newest.

    .venv/bin/python .ci/pin_versions.py [PACKAGE ...]
"""

import os
import re
import sys
import tempfile

import set_up

HEAD = """\
# The exact versions that `make set_up` installs; setup.cfg has the ranges that the code accepts.
# Written by .ci/pin_versions.py, but for the first lines: they are looked up one by one.
"""
BY_HAND = ("lvis", "sal-detectron2", "uv")
# What pyproject.toml asks uv to choose for, which it repeats in every line.
PLATFORM = "platform_machine == 'x86_64' and sys_platform == 'linux'"


def main() -> None:
    by_hand = [set_up.pinned(package) for package in BY_HAND]
    if chosen_by_hand := sorted({*BY_HAND} & {*sys.argv[1:]}):
        sys.exit(f"error: {', '.join(chosen_by_hand)}: change this line of constraints.txt by hand")
    before = versions()
    unknown = [package for package in sys.argv[1:] if package not in before]
    if unknown:
        sys.exit(f"error: {', '.join(unknown)} not in constraints.txt; it has what setup.cfg needs")
    set_up.pip(set_up.pinned("uv"))
    with tempfile.TemporaryDirectory() as folder:
        wanted, chosen = os.path.join(folder, "wanted.in"), os.path.join(folder, "chosen.txt")
        write(wanted, "\n".join(set_up.requirements()))
        # uv keeps what stands in the file that it writes.
        write(chosen, set_up.read(set_up.CONSTRAINTS))
        command = [set_up.PYTHON, "-m", "uv", "pip", "compile", wanted, "--output-file", chosen]
        options = ["--universal", "--python-version", "3.10", "--no-annotate", "--no-header"]
        upgrades = [f"--upgrade-package={package}" for package in sys.argv[1:]]
        error = "no versions fit together; the lines above say why"
        set_up.run([*command, *options, *upgrades, "--quiet"], error)
        lines = set_up.read(chosen).splitlines()
    write(set_up.CONSTRAINTS, HEAD + "\n".join([*by_hand, *map(without_platform, lines)]) + "\n")
    after = versions()
    # A package may have several, for several versions of Python.
    for package in sorted({*sys.argv[1:], *before, *after}):
        old, new = before.get(package, ["absent"]), after.get(package, ["absent"])
        if old != new or package in sys.argv[1:]:
            print(f"{package}: {', '.join(old)} -> {', '.join(new)}")


def versions() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)==(.*)$", set_up.read(set_up.CONSTRAINTS), re.M):
        found.setdefault(package, []).append(version)
    return found


def without_platform(line: str) -> str:
    line = line.replace(f" and {PLATFORM}", "")
    return re.sub(r" ; python_full_version < '3\.14'$", "", line)


def write(path: str, text: str) -> None:
    with open(path, "w") as f:
        f.write(text)


if __name__ == "__main__":
    main()
