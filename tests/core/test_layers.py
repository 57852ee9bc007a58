"""mirage_core is free of the host, and a file imports only files above it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "mirage_core"
ALLOWED = {"torch", "numpy", "einops", "kornia", "safetensors"} | set(sys.stdlib_module_names)


def reading_order() -> list[str]:
    """The order that mirage_core's own docstring tells its readers."""
    docstring = ast.get_docstring(ast.parse((CORE / "__init__.py").read_text())) or ""
    return re.findall(r"\w+", docstring[docstring.index("latent_grid,") :])


def source_files() -> list[Path]:
    return sorted(CORE.rglob("*.py"))


def layer_of(file: Path) -> str:
    """The file's name in the reading order; files of a package count as the package."""
    return file.relative_to(CORE).parts[0].removesuffix(".py")


def imported(file: Path) -> list[str]:
    """Absolute dotted names of everything a file imports, mirage_core's own modules as mirage_core.x."""
    package = ["mirage_core", *file.relative_to(CORE).parts[:-1]]
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            names += [f"{module}.{alias.name}" for alias in node.names] if module == "mirage_core" else [module]
    return names


@pytest.mark.parametrize("file", source_files(), ids=lambda file: str(file.relative_to(CORE)))
def test_core_imports_nothing_of_the_host(file):
    foreign = {name.split(".")[0] for name in imported(file)} - ALLOWED - {"mirage_core"}
    assert foreign == set(), (
        f"{file.name} imports {foreign}; the core knows only torch, numpy, einops, kornia, safetensors"
    )


@pytest.mark.parametrize("file", source_files(), ids=lambda file: str(file.relative_to(CORE)))
def test_a_file_imports_only_files_above_it(file):
    order, own = reading_order(), layer_of(file)
    if own == "__init__":
        return
    for name in imported(file):
        if name.startswith("mirage_core."):
            other = name.split(".")[1]
            assert order.index(other) <= order.index(own), f"{file.name} imports {other}, which is below it"


def test_the_reading_order_names_every_file():
    assert set(reading_order()) == {layer_of(file) for file in source_files()} - {"__init__"}
