"""The config files of the package, found from any folder."""

import os

PACKAGE = os.path.dirname(os.path.abspath(__file__))


def find_config_file(path: str) -> str:
    """
    Args:
        path: a config file.

    Returns:
        The path; where no file is there, but the package has one of that name in its ``configs``,
        the package's: ``birds/configs/Base-rfs.yaml`` is then ``configs/Base-rfs.yaml``.
    """
    _, folder, name = path.rpartition("configs/")
    own = os.path.join(PACKAGE, folder, name)
    return own if folder and not os.path.exists(path) and os.path.exists(own) else path
