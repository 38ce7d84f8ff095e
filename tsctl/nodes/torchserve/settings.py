"""The two files with the settings of every TorchServe node: the project's own, or else those of this package.

`config.properties` has TorchServe's settings, `log4j2.xml` those of its logs; comments in them give the reasons. Each
is looked for by itself, so a project may have one and not the other.
"""

from __future__ import annotations

from pathlib import Path

from tsctl.config.project import Project
from tsctl.nodes.torchserve.properties import read_properties

CONFIG = Path(__file__).with_name("config.properties")
LOG_CONFIG = Path(__file__).with_name("log4j2.xml")


def node_defaults(project: Project) -> dict[str, str]:
    """The properties of config.properties.

    Raises:
        SpecError: the project's file is no UTF-8 text.
    """
    own = project.config_properties
    return read_properties(own if own.is_file() else CONFIG)


def log_config(project: Project) -> Path:
    """The file log4j2.xml, absolute."""
    return project.log_config.resolve() if project.log_config.is_file() else LOG_CONFIG
