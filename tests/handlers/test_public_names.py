"""The public names of `handlers` can be imported, stand in the docs, and cost nothing before they are used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import handlers

CHECKOUT = Path(__file__).resolve().parents[2]


def test_every_public_name_is_importable_from_its_module_and_documented() -> None:
    page = (CHECKOUT / "docs" / "writing-a-handler.md").read_text()
    for name in handlers.__all__:
        public = getattr(handlers, name)
        module = importlib.import_module(public.__module__)
        assert getattr(module, name) is public
        assert f"`{name}`" in page, f"docs/writing-a-handler.md does not name {name}"


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(handlers.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert typed == {name: getattr(handlers, name).__module__ for name in handlers.__all__}


def test_the_contract_loads_no_library() -> None:
    heavy = {"torch", "pydantic", "numpy", "handlers.base"}
    code = f"import sys, handlers.contract; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
