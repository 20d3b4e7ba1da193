"""What is installed, what it needs, and what importing it does."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mirage_core
from dev.set_address import BANNER, ICON, with_address

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="reading TOML needs Python 3.11 or tomli")

ROOT = Path(__file__).resolve().parents[1]
FRONTEND = "comfyui-frontend-package"


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def package(requirement: str) -> str:
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_requirements_are_the_projects_dependencies(project) -> None:
    """All but the frontend, which only the registry has to know of."""
    declared = project["project"]["dependencies"]
    assert sorted(d for d in declared if package(d) != FRONTEND) == sorted(requirements())
    assert [package(d) for d in declared].count(FRONTEND) == 1
    assert len({package(d) for d in declared}) == len(declared)


def test_nothing_is_pinned_or_bounded_from_above(project) -> None:
    """ComfyUI decides about what it shares with the pack."""
    extras = project["project"]["optional-dependencies"].values()
    for requirement in [*requirements(), *project["project"]["dependencies"], *sum(extras, [])]:
        assert not re.search(r"==|===|~=|<|@", requirement), requirement


def test_requirements_leave_torch_alone(project) -> None:
    for requirement in [*requirements(), *project["project"]["dependencies"]]:
        assert package(requirement) not in {"torch", "torchvision", "torchaudio", "xformers"}


OWN_REQUIREMENTS = {"openexr"}
"""Requirements that ComfyUI lacks. Depth passes of renderers come in layouts and compressions that
nothing in ComfyUI decodes; the package brings wheels for every system and needs numpy alone."""


def test_requirements_are_requirements_of_comfyui(comfyui_path: Path) -> None:
    lines = (comfyui_path / "requirements.txt").read_text(encoding="utf-8").splitlines()
    theirs = {package(line) for line in lines if line.strip() and not line.startswith("#")}
    assert {package(requirement) for requirement in requirements()} - theirs == OWN_REQUIREMENTS
    needed = importlib.metadata.requires("OpenEXR") or []
    assert {package(line) for line in needed if "extra ==" not in line} <= theirs


def test_requirements_are_met_here() -> None:
    for requirement in requirements():
        name, least = requirement.split(">=")
        found = re.findall(r"\d+", importlib.metadata.version(name))
        assert [int(n) for n in found] >= [int(n) for n in re.findall(r"\d+", least)]


def test_comfyui_finds_the_templates() -> None:
    """It serves the first of these folders that a pack has, and no other."""
    names = ("example_workflows", "example", "examples", "workflow", "workflows")
    assert [name for name in names if (ROOT / name).is_dir()] == ["workflows"]


def test_one_version(project) -> None:
    """ComfyUI-Manager and the registry read pyproject.toml; the code knows it where it lies."""
    version = project["project"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert version == mirage_core.__version__
    assert "dynamic" not in project["project"]
    for tool in ("comfy", "hatch"):
        assert "version" not in project["tool"][tool]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## .*({re.escape(version)}|Unreleased)", changes, re.MULTILINE)


def test_comfyui_manager_reads_id_and_version(project) -> None:
    """It takes a static version of up to three numbers, and the name in small letters as the id."""
    numbers = [int(part) for part in project["project"]["version"].split(".")]
    assert ".".join(map(str, numbers)) == mirage_core.__version__
    assert project["project"]["name"].strip().lower() == "mirage"


REGISTRY_BOUND = re.compile(r"(==|>=|<=|!=|~=|>|<|<>|=)\s*\d+\.\d+\.\d+(-[a-zA-Z0-9]+)?")
"""What comfy-cli takes as a bound of ComfyUI or its frontend; it drops any other in silence."""

REGISTRY_SYSTEMS = ("Microsoft", "POSIX", "MacOS", "OS Independent")
REGISTRY_DEVICES = {
    "GPU :: NVIDIA CUDA", "GPU :: AMD ROCm", "GPU :: Intel Arc", "NPU :: Huawei Ascend",
    "GPU :: Apple Metal",
}  # fmt: skip


def classified(project: dict, group: str) -> list[str]:
    lines = project["project"]["classifiers"]
    return [line.removeprefix(group) for line in lines if line.startswith(group)]


def test_the_registry_keeps_every_field(project) -> None:
    """Where one entry of a field is none that it knows, it drops the field."""
    comfy = project["tool"]["comfy"]
    (frontend,) = [d for d in project["project"]["dependencies"] if package(d) == FRONTEND]
    for bound in (comfy["requires-comfyui"], frontend.removeprefix(FRONTEND)):
        assert REGISTRY_BOUND.fullmatch(bound), bound
    systems = classified(project, "Operating System :: ")
    assert systems and all(name.startswith(REGISTRY_SYSTEMS) for name in systems)
    devices = classified(project, "Environment :: ")
    assert devices and set(devices) <= REGISTRY_DEVICES
    assert re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", project["project"]["name"])
    assert comfy["PublisherId"] and comfy["DisplayName"]
    read = {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"}
    assert set(comfy) <= read, "the registry reads no such field"


def expect_one_home(project: dict) -> str | None:
    """Address of the repository, which all other addresses of the project hang on."""
    urls, comfy = project["project"]["urls"], project["tool"]["comfy"]
    named = {"Repository", "Documentation", "Issues"} & set(urls)
    pictures = {"Icon", "Banner"} & set(comfy)
    if not named:
        assert not pictures
        return None
    assert named == {"Repository", "Documentation", "Issues"} and pictures == {"Icon", "Banner"}
    home = urls["Repository"]
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", home) and not home.endswith(".git")
    assert urls["Documentation"].startswith(home) and urls["Issues"].startswith(home)
    raw = home.replace("github.com", "raw.githubusercontent.com")
    for kind, path in (("Icon", ICON), ("Banner", BANNER)):
        assert re.fullmatch(f"{re.escape(raw)}/[^/]+/{path}", comfy[kind])
        assert (ROOT / path).is_file()
    return home


def test_all_addresses_are_those_of_one_repository(project) -> None:
    expect_one_home(project)


@pytest.mark.parametrize("ending", ["", "/", ".git"])
def test_an_address_is_written_with_all_that_hangs_on_it(project, ending) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for owner in ("first", "second"):
        text = with_address(text, f"https://github.com/{owner}/mirage{ending}", "main")
        written = tomllib.loads(text)
        assert expect_one_home(written) == f"https://github.com/{owner}/mirage"
    for table in (written["project"]["urls"], project["project"]["urls"]):
        for key in ("Repository", "Documentation", "Issues"):
            table.pop(key, None)
    for table in (written["tool"]["comfy"], project["tool"]["comfy"]):
        for key in ("Icon", "Banner"):
            table.pop(key, None)
    assert written == project
    with pytest.raises(ValueError, match="OWNER"):
        with_address(text, "https://example.org/mirage", "main")


@pytest.mark.processes
def test_the_registrys_own_rules_find_nothing() -> None:
    """What `comfy node validate` runs: no exec, no eval, no two statements on a line."""
    command = [sys.executable, "-m", "ruff", "check", ".", "-q", "--select", "S102,S307,E702"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_oldest_comfyui_is_stated_once(project) -> None:
    source = (ROOT / "__init__.py").read_text(encoding="utf-8")
    oldest = re.search(r"^OLDEST_COMFYUI = \((\d+), (\d+), (\d+)\)$", source, re.MULTILINE)
    assert oldest
    assert project["tool"]["comfy"]["requires-comfyui"] == f">={'.'.join(oldest.groups())}"


def run_python(code: str, **environment: str) -> str:
    """Output of a fresh interpreter that starts outside of the checkout."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(sys.executable).parent,
        env={**clean, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORT_EVERYTHING = """
import importlib, json, logging, pkgutil, socket, sys, threading

def refuse(*_, **__):
    raise RuntimeError("the library went to the network at import")

socket.socket.connect = refuse
import torch
torch.cuda.init = torch.cuda._lazy_init = refuse
threads = threading.active_count()
import mirage_core
names = [m.name for m in pkgutil.walk_packages(mirage_core.__path__, "mirage_core.")]
for name in names:
    importlib.import_module(name)
lazy = {"OpenEXR", "lmdb", "ray"}
private = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "nodes", "execution"}
modules = [sys.modules[name] for name in names]
print(json.dumps({
    "count": len(names),
    "comfy": sorted(private & {name.split(".")[0] for name in sys.modules}),
    "lazy": sorted(lazy & set(sys.modules)),
    "cuda": torch.cuda.is_initialized(),
    "tensors": [f"{m.__name__}.{k}" for m in modules for k, v in vars(m).items()
                if isinstance(v, torch.Tensor)],
    "threads": threading.active_count() - threads,
    "handlers": len(logging.getLogger("mirage").handlers),
    "default": str(torch.get_default_dtype()),
    "grad": torch.is_grad_enabled(),
}))
"""


@pytest.mark.processes
def test_the_library_imports_by_itself() -> None:
    found = json.loads(run_python(IMPORT_EVERYTHING))
    files = [
        p for p in (ROOT / "mirage_core").rglob("*.py") if p != ROOT / "mirage_core/__init__.py"
    ]
    assert found.pop("count") == len(files)
    assert found == {
        "comfy": [], "lazy": [], "cuda": False, "tensors": [], "threads": 0, "handlers": 0,
        "default": "torch.float32", "grad": True,
    }  # fmt: skip


@pytest.mark.processes
def test_the_library_imports_without_a_gpu() -> None:
    code = "import torch, mirage_core.readout.readout; print(torch.cuda.is_initialized())"
    assert run_python(code, CUDA_VISIBLE_DEVICES="").strip() == "False"


@pytest.mark.processes
def test_only_the_library_is_installed() -> None:
    """The checkout is off the path: its package `nodes` would shadow ComfyUI's module."""
    code = (
        "import importlib.util as u, sys; print(u.find_spec('mirage_core') is not None, "
        "u.find_spec('nodes') is None, u.find_spec('tools') is None, sys.argv[1:] or "
        f"{str(ROOT)!r} not in sys.path)"
    )
    assert run_python(code).split() == ["True"] * 4


def test_tests_do_not_see_the_checkout_either() -> None:
    assert str(ROOT) not in sys.path
    found = importlib.util.find_spec("nodes")
    # Tests that load the pack in this process bring ComfyUI's own module of that name.
    assert found is None or ROOT not in Path(str(found.origin)).parents


LOAD_PACK = f"""
import importlib.util as u
spec = u.spec_from_file_location(
    "pack", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}]
)
pack = u.module_from_spec(spec)
try:
    spec.loader.exec_module(pack)
    print("loaded")
except ImportError as error:
    print(error)
"""


@pytest.mark.processes
@pytest.mark.parametrize("version", ["0.29.4", "0.3.60", "0.0.0", "0.29"])
def test_the_pack_refuses_an_old_comfyui(tmp_path: Path, version: str) -> None:
    """With a clear message, before any of its modules is loaded."""
    (tmp_path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    message = run_python(LOAD_PACK, PYTHONPATH=str(tmp_path))
    assert "0.30.0 or newer" in message
    assert f"Got: {version}" in message
    assert "Update ComfyUI" in message


@pytest.mark.processes
@pytest.mark.parametrize("version", ["0.30.0", "0.31.2", "1.0.0", "0.30.1rc1"])
def test_the_pack_accepts_newer_ones(tmp_path: Path, version: str) -> None:
    (tmp_path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    assert run_python(LOAD_PACK, PYTHONPATH=str(tmp_path)).strip() == "loaded"


def test_the_licence_is_stated_and_there(project) -> None:
    assert project["project"]["license"]["file"] == "LICENSE"
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "Version 2.0" in licence
