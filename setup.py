"""What pyproject.toml cannot say: `handlers` and `docs` of this checkout are installed inside tsctl.

An installation has no top-level name `handlers`, which a team's own package may have
(docs/decisions/0058-two-packages-called-handlers.md).
"""

from setuptools import find_packages, setup

INSIDE = "tsctl.bundled"

setup(
    packages=find_packages(include=["tsctl", "tsctl.*"])
    + [f"{INSIDE}.{name}" for name in find_packages(include=["handlers", "handlers.*"])]
    + [f"{INSIDE}.docs"],
    package_dir={f"{INSIDE}.handlers": "handlers", f"{INSIDE}.docs": "docs"},
)
