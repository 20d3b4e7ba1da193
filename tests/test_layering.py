"""Rules of the source: who may import whom, how long things get, what is never used."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PAGE = ROOT / "docs" / "architecture.md"


def words_of_the_page(opening: str) -> tuple[tuple[str, ...], ...]:
    """Names in backticks in the first sentence of a line of the page, step by step."""
    (line,) = [x for x in PAGE.read_text(encoding="utf-8").splitlines() if x.startswith(opening)]
    sentence = line.removeprefix(opening).partition(".")[0]
    return tuple(tuple(re.findall(r"`(\w+)`", step)) for step in sentence.split("→"))


LAYERS = (*words_of_the_page("- Imports go one way:"), ("__main__",))
"""Packages of mirage_core from the bottom up; each may import those before it, and itself."""

LEAVES = set(*words_of_the_page("- Everything may import:"))
"""Modules of mirage_core that everything may import; they import only each other."""

CORE_PACKAGES = {"torch", "numpy", "einops", "safetensors", "scipy", "av", "PIL", "filelock"}
"""All that mirage_core needs. PIL is a requirement of ComfyUI; it draws contact sheets."""

LIBRARY_PACKAGES = {
    "geometry": {"OpenEXR"},
    "models": {
        "diffusers", "transformers", "accelerate", "peft", "gguf", "sentencepiece", "unidepth",
        "depth_anything_3",
        "mapanything",
    },
    "masks": {"transformers"},
    "sampling": {"diffusers"},
    "cli": {"tqdm", "tomlkit"},
    "evaluation": {"matplotlib", "piq", "torchvision"},
    "training": {
        "diffusers", "accelerate", "peft", "ray", "tensorboard", "lmdb", "torchao", "wandb",
    },
}  # fmt: skip
"""What single parts import beside the rest, where they need it: mostly for headless work."""

COMFY_PUBLIC = {"comfy_api", "comfy_execution"}
COMFY_PRIVATE = {
    "alembic_db", "api_server", "app", "comfy", "comfy_api_nodes", "comfy_config",
    "comfy_extras", "comfyui_version", "cuda_malloc", "execution", "folder_paths", "latent_preview",
    "main", "middleware", "node_helpers", "nodes", "protocol", "server", "utils",
}  # fmt: skip
"""Top-level modules of ComfyUI that may change with any release."""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MIN_ANNOTATED = 0.95


@dataclass(frozen=True)
class Import:
    """One imported module: absolute name, or the path inside the project when relative.

    ``for_types`` marks what stands under ``if TYPE_CHECKING`` and is never run.
    """

    module: str
    relative: bool
    line: int
    for_types: bool = False


@cache
def sources(folder: str) -> tuple[Path, ...]:
    found = tuple(sorted((ROOT / folder).rglob("*.py")))
    assert found, f"{folder} holds no source"
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, wherever it stands; ``from . import a`` imports module a."""
    package = path.relative_to(ROOT).parts[:-1]
    typed = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, False, node.lineno, id(node) in typed)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield Import(node.module or "", False, node.lineno, id(node) in typed)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1])
            base += (node.module or "").split(".") if node.module else []
            names = [""] if node.module else [alias.name for alias in node.names]
            for name in names:
                module = ".".join([*base, name] if name else base)
                yield Import(module, True, node.lineno, id(node) in typed)


def offences(folder: str, rule) -> list[str]:
    """``file:line: what`` for every import of a folder that ``rule`` objects to."""
    return [
        f"{name_of(path)}:{item.line}: {objection}"
        for path in sources(folder)
        for item in imports(path)
        if (objection := rule(path, item))
    ]


def layer(part: str) -> int | None:
    return next((number for number, names in enumerate(LAYERS) if part in names), None)


def core_part(path: Path) -> str:
    parts = path.relative_to(ROOT / "mirage_core").parts
    return parts[0].removesuffix(".py") if len(parts) > 1 or parts[0] != "__init__.py" else ""


def test_every_part_of_the_core_has_its_place() -> None:
    parts = {core_part(path) for path in sources("mirage_core")} - {""}
    assert parts == LEAVES | {name for names in LAYERS for name in names}


def test_the_page_names_every_part() -> None:
    """Whoever knows the paper finds where a thing is changed."""
    page = PAGE.read_text(encoding="utf-8")
    parts = [f"mirage_core/{name}" for names in LAYERS for name in names if name != "__main__"]
    folders = [name_of(path) for path in (ROOT / "tests").iterdir() if (path / ".").is_dir()]
    assert [part for part in parts if not re.search(rf"`{part}(\.py)?`", page)] == []
    assert [f for f in folders if f"`{f}`" not in page and not f.endswith(("data", "__"))] == []


def defined(path: Path) -> set[str]:
    """What a module defines at its top."""
    found = set()
    for node in tree(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        found |= {getattr(target, "name", getattr(target, "id", "")) for target in targets}
    return found


def test_names_of_the_page_are_in_the_core() -> None:
    """``part.module.name`` and ``part.module`` in backticks, for parts that are packages."""
    packages = {path.name for path in (ROOT / "mirage_core").iterdir() if path.is_dir()}
    wrong = []
    for dotted in re.findall(r"`((?:[a-z_]+\.)+[A-Za-z_]+)`", PAGE.read_text(encoding="utf-8")):
        part, module, *name = dotted.split(".")
        file = ROOT / "mirage_core" / part / f"{module}.py"
        if part in packages and module != "py":
            there = file.is_file() and all(x in defined(file) for x in name)
            wrong += [] if there or file.with_suffix("").is_dir() else [dotted]
    assert wrong == []


def test_tests_of_the_core_lie_in_its_folders() -> None:
    core = {path.name for path in (ROOT / "mirage_core").iterdir() if path.is_dir()}
    tests = ROOT / "tests" / "core"
    mirrored = {path.relative_to(tests).parts[0] for path in tests.rglob("test_*.py")}
    assert {name for name in mirrored if (tests / name).is_dir()} <= core


def test_core_imports_go_one_way() -> None:
    def rule(path: Path, item: Import) -> str:
        # The package itself gives names of every part, and reads none of them at import.
        if not item.relative or (core_part(path) == "" and item.for_types):
            return ""
        target = item.module.split(".")
        if target[0] != "mirage_core" or len(target) == 1:
            return f"leaves the library: {item.module}"
        here, there = core_part(path), target[1]
        if there in LEAVES:
            return ""
        below = layer(there)
        own = layer(here)
        if here in LEAVES or below is None or own is None or below > own:
            return f"{here or 'the package'} imports {there}"
        return f"{here} imports its neighbour {there}" if below == own and here != there else ""

    assert offences("mirage_core", rule) == []


def test_core_imports_of_itself_are_relative() -> None:
    """ComfyUI loads the pack under a name of its own: an absolute import would load it twice."""

    def rule(path: Path, item: Import) -> str:
        own = item.module.split(".")[0] in ("mirage_core", "nodes") and not item.relative
        return item.module if own else ""

    assert offences("mirage_core", rule) == []
    assert (
        offences("nodes", lambda path, item: rule(path, item) * (path.parent.name != "comfy")) == []
    )
    border = [item for path in sources("nodes/comfy") for item in imports(path)]
    assert not [i for i in border if i.module.startswith("mirage_core") and not i.relative]


def test_core_imports_nothing_else() -> None:
    def rule(path: Path, item: Import) -> str:
        top = item.module.split(".")[0]
        allowed = CORE_PACKAGES | LIBRARY_PACKAGES.get(core_part(path), set())
        known = item.relative or top in allowed or top in sys.stdlib_module_names
        return "" if known else top

    assert offences("mirage_core", rule) == []


def test_nodes_touch_private_comfyui_in_nodes_comfy_alone() -> None:
    def rule(path: Path, item: Import) -> str:
        top = item.module.split(".")[0]
        if item.relative or top in CORE_PACKAGES | COMFY_PUBLIC | {"typing_extensions"}:
            return ""
        if top in COMFY_PRIVATE:
            return "" if path.parent.name == "comfy" or item.for_types else top
        return "" if top in sys.stdlib_module_names else top

    assert offences("nodes", rule) == []


def test_nodes_know_the_library_and_each_other() -> None:
    def rule(path: Path, item: Import) -> str:
        if not item.relative:
            return ""
        return "" if item.module.startswith(("mirage_core.", "nodes.")) else item.module

    assert offences("nodes", rule) == []


@pytest.mark.parametrize("folder", ["mirage_core", "tools", "benchmarks"])
def test_only_the_pack_imports_its_nodes(folder: str) -> None:
    def rule(path: Path, item: Import) -> str:
        return item.module if item.module.split(".")[0] == "nodes" else ""

    assert offences(folder, rule) == []
    pack = [item.module for item in imports(ROOT / "__init__.py") if item.relative]
    assert set(pack) == {"nodes"}


def test_the_pack_does_no_work_at_import() -> None:
    """ComfyUI is looked at only when it asks for the nodes."""
    body = tree(ROOT / "__init__.py").body
    top = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {getattr(node, "module", None) for node in top} <= {"__future__", "typing"}


@pytest.mark.parametrize("folder", ["mirage_core", "nodes", "tools"])
def test_lengths(folder: str) -> None:
    long = [
        f"{name_of(path)}: {lines} lines"
        for path in sources(folder)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    ]
    for path in sources(folder):
        for node in functions(path):
            lines = length(node)
            if lines > MAX_FUNCTION_LINES:
                long.append(f"{name_of(path)}:{node.lineno}: {node.name} has {lines} lines")
    assert long == []


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function; what its docstring explains is not held against it."""
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def annotations(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[bool]:
    """Whether each parameter, and what is returned, has an annotation."""
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    receiver = {"self", "cls"} if plain and plain[0].arg in ("self", "cls") else set()
    for argument in (*plain, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None and argument.arg not in receiver:
            yield argument.annotation is not None
    yield node.returns is not None


@pytest.mark.parametrize("folder", ["mirage_core", "nodes"])
def test_annotations(folder: str) -> None:
    found = [ok for path in sources(folder) for node in functions(path) for ok in annotations(node)]
    assert sum(found) / len(found) >= MIN_ANNOTATED


LATENT_SIZES = {"LATENT_CHANNELS", "SPATIAL_STRIDE"}
"""Sizes of Wan2.2's latents. What handles any tokens asks the codec, the memory or the tensor."""

MAY_KNOW_LATENT_SIZES = {
    "mirage_core/codecs", "mirage_core/checkpoints", "mirage_core/models", "nodes/comfy",
    "mirage_core/constants.py", "mirage_core/validate.py", "mirage_core/geometry/camera.py",
    "mirage_core/cache/types.py", "mirage_core/conditioning/features.py",
    "mirage_core/training/data/shards.py", "mirage_core/training/data/released",
}  # fmt: skip
"""Codecs and the video model, files of Wan2.2, and defaults for what does not say its own."""


@pytest.mark.parametrize("folder", ["mirage_core", "nodes"])
def test_few_know_the_sizes_of_latents(folder: str) -> None:
    found = [
        name_of(path)
        for path in sources(folder)
        if not any(name_of(path).startswith(place) for place in MAY_KNOW_LATENT_SIZES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Name) and node.id in LATENT_SIZES
    ]
    assert found == []


FORBIDDEN_CALLS = {"print", "eval", "exec", "compile", "__import__", "breakpoint", "input"}
FORBIDDEN_MODULES = {
    "pickle", "dill", "marshal", "shelve", "urllib", "requests", "http", "socket", "subprocess",
}  # fmt: skip
FORBIDDEN_ATTRIBUTES = {
    "torch.load", "torch.save", "os.system", "numpy.load", "np.load", "pickle.load", "pickle.loads",
}  # fmt: skip

SAFE_LOADER = "mirage_core/training/data/released/safe_load.py"
"""The one file that may import pickle, for an unpickler that knows a few words, and may call
torch.load, with weights_only=True."""

STARTER = "mirage_core/evaluation/worldscore_scores.py"
"""The one file that may import subprocess: it starts the evaluator that its user names, with no
shell."""

ALLOWED = {("pickle", SAFE_LOADER), ("subprocess", STARTER)}


def weights_only(call: ast.Call) -> bool:
    """Whether a call says, in these words, that it loads weights only."""
    words = {word.arg: ast.unparse(word.value) for word in call.keywords}
    return words.get("weights_only") == "True"


def forbidden_in(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a file with what is never used, and what that is."""
    safe = {
        id(node.func)
        for node in ast.walk(tree(path))
        if name_of(path) == SAFE_LOADER and isinstance(node, ast.Call) and weights_only(node)
    }
    for node in ast.walk(tree(path)):
        what = forbidden(node)
        if what and not (what == "torch.load" and id(node) in safe):
            yield node.lineno, what
    for item in imports(path):
        top = item.module.split(".")[0]
        if top in FORBIDDEN_MODULES and (top, name_of(path)) not in ALLOWED:
            yield item.line, item.module


def forbidden(node: ast.AST) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id if node.func.id in FORBIDDEN_CALLS else ""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        name = f"{node.value.id}.{node.attr}"
        return name if name in FORBIDDEN_ATTRIBUTES else ""
    if isinstance(node, ast.ExceptHandler) and node.type is None:
        return "except without a type"
    if isinstance(node, ast.Assert):
        return "assert"
    return ""


@pytest.mark.parametrize("folder", ["mirage_core", "nodes"])
def test_what_is_never_used(folder: str) -> None:
    found = [
        f"{name_of(path)}:{line}: {what}"
        for path in sources(folder)
        for line, what in forbidden_in(path)
    ]
    assert found == []


def test_modules_start_with_a_docstring_and_postponed_annotations() -> None:
    for folder in ("mirage_core", "nodes", "tools", "benchmarks"):
        for path in sources(folder):
            assert ast.get_docstring(tree(path)), name_of(path)
            if len(tree(path).body) > 1:
                futures = [i for i in imports(path) if i.module == "__future__"]
                assert futures, name_of(path)


def test_the_rules_notice_offences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that breaks every rule is found out."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    bad = tmp_path / "mirage_core" / "cache" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text(
        "import comfy.sd\nfrom mirage_core import errors\nfrom ..rollout import plan\n"
        "from ...nodes import comfy\nimport pickle\nprint(eval('1'))\n"
        "try:\n    pass\nexcept:\n    assert torch.load\n"
    )
    sources.cache_clear()
    try:
        for rule in (
            test_core_imports_go_one_way,
            test_core_imports_of_itself_are_relative,
            test_core_imports_nothing_else,
        ):
            with pytest.raises(AssertionError):
                rule()
        seen = {what for _, what in forbidden_in(bad)}
        assert seen == {"print", "eval", "except without a type", "assert", "torch.load", "pickle"}
        assert [item.module for item in imports(bad) if item.relative] == [
            "mirage_core.rollout", "nodes",
        ]  # fmt: skip
    finally:
        sources.cache_clear()


def test_tensor_files_are_loaded_in_one_file_and_without_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    loads = (
        "torch.load(f, weights_only=True)", "torch.load(f)", "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=safe)", "load = torch.load", "pickle.loads(f)",
    )  # fmt: skip
    for name, allowed in ((SAFE_LOADER, True), ("mirage_core/other.py", False)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import pickle\n" + "\n".join(loads))
        lines = sorted(line for line, _ in forbidden_in(path))
        assert lines == ([3, 4, 5, 6, 7] if allowed else [1, 2, 3, 4, 5, 6, 7])
