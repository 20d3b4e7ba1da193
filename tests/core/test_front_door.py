"""The names that the package itself gives: what they are, and what they cost."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mirage_core

SOURCE = Path(mirage_core.__file__)


def declared() -> dict[str, str]:
    """Names that type checkers see, and the modules that they see them in."""
    (block,) = (
        node
        for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body
        if isinstance(node, ast.If)
    )
    return {
        alias.name: f".{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def fresh(program: str) -> dict:
    """What a program prints as JSON in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_type_checkers_and_programs_see_the_same_names() -> None:
    assert declared() == mirage_core._HOMES
    assert sorted(declared()) == sorted(mirage_core.__all__)
    assert set(mirage_core.__all__) <= set(dir(mirage_core))


@pytest.mark.parametrize("name", mirage_core.__all__)
def test_every_name_is_what_its_module_has(name: str) -> None:
    found = getattr(mirage_core, name)
    assert found.__name__ == name
    assert found.__module__ == f"mirage_core{mirage_core._HOMES[name]}"
    assert getattr(mirage_core, name) is found
    assert found.__doc__


def test_a_wrong_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="'mirage_core' has no attribute 'bogus'"):
        _ = mirage_core.bogus
    with pytest.raises(ImportError, match="cannot import name 'bogus'"):
        from mirage_core import bogus  # noqa: F401


@pytest.mark.processes
def test_the_package_alone_loads_nothing() -> None:
    program = """
import json, sys
before = set(sys.modules)
import mirage_core
dir(mirage_core)
new = sorted({name.split(".")[0] for name in set(sys.modules) - before})
own = sorted(name for name in sys.modules if name.startswith("mirage_core"))
print(json.dumps({"torch": "torch" in new, "numpy": "numpy" in new, "own": own}))
"""
    assert fresh(program) == {"torch": False, "numpy": False, "own": ["mirage_core"]}


@pytest.mark.processes
def test_the_names_work_under_another_package_name() -> None:
    """ComfyUI loads the pack, and the library in it, under a name made from its path."""
    program = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location(
    "some_pack", {str(SOURCE)!r}, submodule_search_locations=[{str(SOURCE.parent)!r}]
)
pack = sys.modules["some_pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
homes = {{name: getattr(pack, name).__module__ for name in pack.__all__}}
print(json.dumps([homes, "mirage_core" in sys.modules]))
"""
    homes = {name: f"some_pack{home}" for name, home in mirage_core._HOMES.items()}
    assert fresh(program) == [homes, False]
