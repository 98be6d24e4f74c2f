"""The floors of the house: who may import whom, and what must never be found in here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "anomaly"

# A room may import only from floors below its own; the rooms of one package may import each other.
FLOORS = {
    "errors": 0,  # ours, and below everything: any room may refuse
    "files": 1,
    "regions": 1,
    "render": 1,
    "images": 2,
    "metrics": 2,
    "archives": 2,
    "accounts": 2,
    "thresholds": 2,
    "nets": 2,
    "descent": 2,
    "backbones": 3,
    "dataset": 3,
    "synthetic": 3,
    "corrupt": 3,
    "capture": 3,
    "monitor": 3,
    "detectors": 4,
    "gate": 4,
    "attributes": 3,
    "defects": 4,
    "embedding": 4,
    "evaluation": 5,
    "runs": 5,
    "training": 6,
    "classify": 6,
    "versions": 6,
    "teaching": 7,
    "lessons": 5,
    "intake": 5,
    "inspection": 6,
    "history": 7,
    "pretraining": 6,
    "report": 7,
    "handlers": 8,
    "bench": 7,
    "demo": 7,
    "ui": 9,
    "api": 9,
    "cli": 9,
    "__main__": 10,
    "app": 10,
}
# `python -m anomaly serve` opens the same page as app.py; a second program for that would only be a detour.
# The page and the plain routes are served by one server.
EXCEPTIONS = {("cli", "ui"), ("ui", "api")}
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}
BANNED_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
BANNED_CALLS = {"eval", "exec", "__import__"}

FILES = sorted(PACKAGE.rglob("*.py")) + [ROOT / "app.py"]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
)


def room(path: Path) -> str:
    """The room of a file: `anomaly/ui/theme.py` is in `ui`; `anomaly/__init__.py` is the house itself, ''."""
    if path.parent == ROOT:
        return path.stem
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if name == "__init__" else name


def imports(path: Path) -> list[tuple[str, int]]:
    """(dotted name, line) of every import of a file, also inside functions; `from anomaly import x` is `anomaly.x`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = path.relative_to(ROOT).parts[: -node.level]
                base = ".".join((*parts, *filter(None, [base])))
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return found


def rooms_imported(path: Path) -> list[tuple[str, int]]:
    """(room, line) of what a file imports from our package."""
    found = []
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] == "anomaly" and len(parts) > 1 and not parts[1].startswith("__version"):
            found.append((parts[1], line))
    return found


def where(path: Path, line: int = 1) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_the_reader_of_imports_sees_lazy_ones():
    """A test that reads nothing would hold nothing."""
    assert "synthetic" in {name for name, _ in rooms_imported(PACKAGE / "cli" / "learn.py")}  # inside a function
    assert {"errors", "images", "inspection", "render"} <= {
        name for name, _ in rooms_imported(PACKAGE / "handlers" / "inspect.py")
    }
    assert len(FILES) > 30


def test_every_room_has_a_floor():
    strangers = {room(path) for path in FILES} - {""} - FLOORS.keys()
    assert not strangers, f"give {sorted(strangers)} a floor in DESIGN and in this table"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_from_floors_below(path):
    own = room(path)
    wrong = [
        f"{where(path, line)} imports {name} (floor {FLOORS.get(name, 'unknown')})"
        for name, line in rooms_imported(path)
        if name != own and (own, name) not in EXCEPTIONS and not FLOORS.get(name, 99) < FLOORS.get(own, 0)
    ]
    assert not wrong, f"{own} is on floor {FLOORS.get(own, 0)}: {wrong}"


def test_there_are_no_circles():
    """Also not inside of a package, where the floors say nothing. Lazy imports count."""
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        targets = set()
        for name, _ in imports(path):
            parts = name.split(".")
            while parts and ".".join(parts) not in MODULES:
                parts.pop()
            targets.add(".".join(parts))
        graph[module] = targets - {module, "", "anomaly"}
    done = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_gradio_is_imported_on_top_only(path):
    found = [line for name, line in imports(path) if name.split(".")[0] in ("gradio", "gradio_client")]
    assert not found or room(path) in ("app", "ui"), f"{where(path, found[0])} imports gradio"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_no_eval_no_bare_except(path):
    wrong = [where(path, line) for name, line in imports(path) if name.split(".")[0] in BANNED_MODULES]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            if called in BANNED_CALLS:
                wrong.append(f"{where(path, node.lineno)} calls {called}")
            if ast.unparse(node.func) == "torch.load":
                safe = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("weights_only")
                if safe != "True":
                    wrong.append(f"{where(path, node.lineno)} calls torch.load without weights_only=True")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            wrong.append(f"{where(path, node.lineno)} has a bare except")
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_mutable_defaults(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
                assert not isinstance(default, (ast.List, ast.Dict, ast.Set)), where(path, default.lineno)


def test_a_function_lives_with_its_noun():
    named = [path for path in FILES if set(path.relative_to(ROOT).with_suffix("").parts) & BANNED_NAMES]
    assert not named, f"{named}: name it after what it is about"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is_for(path):
    if path.name != "__main__.py":
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{where(path)} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_happens_at_import(path):
    """On the level of a module stand definitions, constants and imports; no statement that does something."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_main = isinstance(node, ast.If) and ast.unparse(node.test) in (
            "__name__ == '__main__'",
            "TYPE_CHECKING",
        )
        assert isinstance(node, allowed) or is_text or is_main, f"{where(path, node.lineno)} does something at import"


def test_importing_all_leaves_no_trace_and_needs_no_gradio(tmp_path, tmp_path_factory):
    """In a process of its own: no output, no file, no seed moved, no thread, no gradio below the page."""
    below = [name for name in MODULES if FLOORS.get((name.split(".") + [""])[1], 0) < 8 or name == "anomaly.cli"]
    code = f"""
import importlib, os, random, sys, threading
import numpy as np, torch, timm, sklearn.covariance
state = (torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
threads, cores, environment = threading.active_count(), torch.get_num_threads(), dict(os.environ)
for name in {below!r}:
    importlib.import_module(name)
assert torch.equal(torch.random.get_rng_state(), state[0]), "torch's seed was moved"
assert (np.random.get_state()[1] == state[1]).all() and random.getstate() == state[2], "a seed was moved"
assert threading.active_count() == threads and torch.get_num_threads() == cores
assert dict(os.environ) == environment, "the environment was changed"
assert "gradio" not in sys.modules, "a lower floor imported gradio"
assert os.listdir() == [], f"written: {{os.listdir()}}"
"""
    run = subprocess.run(
        [sys.executable, "-B", "-W", "ignore", "-c", code],
        cwd=tmp_path,  # HOME is elsewhere: what libraries keep there is theirs
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path_factory.mktemp("home"))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_app_is_a_short_way_in():
    assert len((ROOT / "app.py").read_text(encoding="utf-8").splitlines()) <= 40
