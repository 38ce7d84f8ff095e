"""Renders a node's config.properties: the project's defaults with this node's addresses and folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tsctl.config.deployment import NodeSpec
from tsctl.nodes.torchserve.properties import render_properties


def node_properties(defaults: Mapping[str, str], node: NodeSpec, store: Path, cores: int) -> dict[str, str]:
    """The properties that this node runs with.

    Args:
        defaults: the project's config.properties.
        store: the model store, absolute.
        cores: of the node; as many threads serve HTTP, where the defaults set no number. TorchServe's own default is
            twice as many, which on few cores only adds context switches (decision 0006).

    TorchServe loads no models itself. They are registered afterwards, one by one, so that one that fails stops no other
    and its reason is reported.
    """
    inference_grpc, management_grpc = node.grpc_ports
    addresses = {
        "inference_address": node.inference,
        "management_address": node.management,
        "metrics_address": node.metrics,
        "grpc_inference_address": node.host,
        "grpc_management_address": node.host,
        "grpc_inference_port": str(inference_grpc),
        "grpc_management_port": str(management_grpc),
        "model_store": str(store),
        "allowed_urls": f"file://{_pattern(store)}/[^/]+\\.mar",
    }
    kept = {key: value for key, value in defaults.items() if key not in {"load_models", "model_snapshot", "vmargs"}}
    return {"number_of_netty_threads": str(max(2, cores)), **kept, **addresses}


def jvm_arguments(defaults: Mapping[str, str], log_config: Path | None) -> list[str]:
    """The JVM's arguments: `vmargs` of config.properties, with the log configuration by its absolute path."""
    arguments = [word for word in defaults.get("vmargs", "").split() if not word.startswith("-Dlog4j")]
    return [*arguments, f"-Dlog4j2.configurationFile={log_config}"] if log_config else arguments


def render_node_config(properties: Mapping[str, str]) -> str:
    """The file's text."""
    return render_properties(
        properties, "Written by tsctl at every start of this node; edit config.properties instead."
    )


def _pattern(folder: Path) -> str:
    # the value is a list with commas between its patterns, so a comma in the path is matched as any character
    return re.escape(str(folder)).replace(",", ".")
