"""Renders a node's own config.properties: the production default with this node's addresses and folders on top."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tsctl.config.deployment import NodeSpec
from tsctl.nodes.torchserve.properties import render_properties


def node_properties(defaults: Mapping[str, str], node: NodeSpec, store: Path, cores: int) -> dict[str, str]:
    """What this node runs with.

    Args:
        defaults: the project's config.properties.
        store: the model store, absolute.
        cores: that the node may use; as many threads serve HTTP, where the defaults do not say how many. TorchServe
            itself takes twice as many, which on few cores is only more switching between them (decision 0006).

    Models are not loaded by TorchServe but registered afterwards, one by one, so that one that fails stops no other
    and its reason is told.
    """
    inference_grpc, management_grpc = node.grpc_ports
    own = {
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
    return {"number_of_netty_threads": str(max(2, cores)), **kept, **own}


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
