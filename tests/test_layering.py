"""Who may import whom, read from the table in CONTRIBUTING.md and from the source."""

import ast
import fnmatch
import functools
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FREE = ("tests",)  # may import what it likes, but for one thing below
NOT_OURS = ("build", "output", "runs", "node_modules")  # .gitignore names them
HEADER = ("from", "packages", "ours", "ComfyUI")


@dataclass(frozen=True)
class Row:
    """What one folder or file may import beside the standard library and itself.

    packages: file name pattern -> packages. ours: folders and files of ours. host: "no", "API"
    (`comfy_api` and `folder_paths`) or "all".
    """

    packages: Mapping[str, frozenset[str]]
    ours: tuple[str, ...]
    host: str


def read_table(text: str) -> dict[str, Row]:
    """The table of a markdown text whose head is HEADER: folder or file -> what it may import."""
    lines = iter(text.splitlines())
    for line in lines:
        if _cells(line) == list(HEADER):
            break
    else:
        raise AssertionError(f"no table with the columns {HEADER}")
    next(lines)  # the rule under the head
    rows = {}
    for line in lines:
        if not line.startswith("|"):
            break
        name, packages, ours, host = _cells(line)
        assert host in ("no", "API", "all"), f"{name}: ComfyUI is no, API or all, not {host!r}"
        rows[name.strip("`")] = Row(_packages(packages), tuple(_names(ours)), host)
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _packages(cell: str) -> dict[str, frozenset[str]]:
    """ "`a`, `b`; in `x_*.py` `c`" -> {"*": {a, b}, "x_*.py": {c}}"""
    found = {}
    for part in cell.split(";"):
        names = _names(part)
        pattern = names.pop(0) if part.strip().startswith("in ") else "*"
        found[pattern] = frozenset(names)
    return found


TABLE = read_table((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
FOLDERS = sorted({name.split("/")[0] for name in TABLE if name != "__init__.py"})


def files_of(folder: str) -> list[str]:
    return sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*.py"))


PRODUCT = ["__init__.py", *(path for folder in FOLDERS for path in files_of(folder))]


@functools.cache
def parse(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), path)


def imports(path: str, tree: ast.AST) -> list[tuple[int, str, bool]]:
    """Every import of a file as (line, name, is ours).

    A relative import is resolved from the root: `from ..kernels import x` in kit/a.py gives
    "kernels/x". One that climbs out of the root gives "..".
    """
    package = Path(path).parent.parts
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.lineno, node.module or "", False))
        elif isinstance(node, ast.ImportFrom):
            if node.level > len(package) + 1:
                found.append((node.lineno, "..", True))
                continue
            inside = package[: len(package) - (node.level - 1)]
            base = [*inside, *(node.module.split(".") if node.module else ())]
            found += [(node.lineno, "/".join([*base, alias.name]), True) for alias in node.names]
    return found


def is_host(name: str) -> bool:
    modules = ("folder_paths", "latent_preview")
    return name in modules or (name.startswith("comfy") and name != "comfyui_jodi")


def is_inside(name: str, place: str) -> bool:
    """Whether a file or an imported name lies in a folder or file of the table."""
    place = place.removesuffix(".py")
    return f"{name.removesuffix('.py')}/".startswith(f"{place}/")


def row_of(path: str, table: Mapping[str, Row]) -> str:
    """The table's most exact row for a file.

    Raises: KeyError when the table has none for it.
    """
    fits = [name for name in table if is_inside(path, name)]
    if not fits:
        raise KeyError(path)
    return max(fits, key=len)


def violations(path: str, tree: ast.AST, table: Mapping[str, Row]) -> list[str]:
    """What a file imports that the table does not allow, one line each."""
    own = row_of(path, table)
    row = table[own]
    allowed = {
        package
        for pattern, packages in row.packages.items()
        if fnmatch.fnmatch(Path(path).name, pattern)
        for package in packages
    }
    wrong = []
    for line, name, ours in imports(path, tree):
        top = name.split(".")[0]
        if ours:
            fine = any(is_inside(name, place) for place in (own, *row.ours))
        elif is_host(top):
            fine = row.host == "all" or (row.host == "API" and top in ("comfy_api", "folder_paths"))
        else:
            fine = top in sys.stdlib_module_names or top in allowed
        if not fine:
            wrong.append(f"{path}:{line} imports {name}")
    return wrong


def test_every_file_has_a_row():
    folders = [
        folder.name
        for folder in sorted(ROOT.glob("[!.]*/"))
        if folder.name not in (*FREE, *NOT_OURS) and not (folder / "pyvenv.cfg").exists()
    ]
    files = [path for folder in folders for path in files_of(folder)]
    missing = [
        path
        for path in files
        # The `__init__.py` of a folder whose parts have rows of their own imports nothing.
        if not any(is_inside(path, name) for name in TABLE) and parse(path).body[1:]
    ]
    assert not missing, f"the table of CONTRIBUTING.md has no row for {missing}"


@pytest.mark.parametrize("name", TABLE)
def test_imports_follow_the_table(name):
    paths = [path for path in PRODUCT if is_inside(path, name) and row_of(path, TABLE) == name]
    wrong = [line for path in paths for line in violations(path, parse(path), TABLE)]
    assert not wrong, "the table of CONTRIBUTING.md does not allow:\n" + "\n".join(wrong)


# A house of its own, so that the checks are tested and not the table.
SMALL = """
| from | packages | ours | ComfyUI |
| --- | --- | --- | --- |
| `base` | `torch`; in `fast_*.py` `triton` | | no |
| `core` | `torch`, `numpy` | `base` | no |
| `other` | `torch` | `core/model`, `core/names.py` | no |
| `ui/host` | `torch` | `core` | all |
| `ui/pages` | `torch` | `core`, `ui/host` | API |

| after | the | table | no |
"""


@pytest.mark.parametrize(
    ("path", "source", "allowed"),
    [
        ("base/a.py", "import torch.nn.functional as F", True),
        ("base/a.py", "from . import b", True),
        ("base/a.py", "import numpy", False),
        ("base/a.py", "import triton", False),
        ("base/fast_a.py", "import triton.language as tl", True),
        ("base/fast_a.py", "import torch", True),
        ("base/a.py", "from ..core import a", False),
        ("core/a.py", "from ..base.a import b", True),
        ("core/a.py", "from .. import base", True),
        ("core/model/a.py", "from ..names import b", True),
        ("core/model/a.py", "from ...ui.host import b", False),
        ("core/a.py", "def f():\n    from ..ui import x", False),
        ("core/a.py", "from core.names import a", False),
        ("core/a.py", "import comfyui_jodi.core", False),
        ("core/a.py", "import scipy.ndimage", False),
        ("core/a.py", "import folder_paths", False),
        ("core/a.py", "from ....outside import x", False),
        ("core/a.py", "from ..base_two import x", False),
        ("other/a.py", "from ..core.model.a import b", True),
        ("other/a.py", "from ..core.names import b", True),
        ("other/a.py", "from ..core.other import b", False),
        ("ui/host/a.py", "import comfy.utils", True),
        ("ui/host/a.py", "import latent_preview", True),
        ("ui/host/a.py", "import comfyui_jodi", False),
        ("ui/host/a.py", "import nodes", False),
        ("ui/host/a.py", "from ..pages import a", False),
        ("ui/pages/a.py", "from comfy_api.latest import io", True),
        ("ui/pages/a.py", "import folder_paths", True),
        ("ui/pages/a.py", "import comfy.utils", False),
        ("ui/pages/a.py", "import latent_preview", False),
        ("ui/pages/a.py", "from ..host.a import b", True),
    ],
)
def test_the_check_itself(path, source, allowed):
    assert (not violations(path, ast.parse(source), read_table(SMALL))) == allowed


def arrows(trees: Mapping[str, ast.AST]) -> dict[str, set[str]]:
    """Which file imports which, at any place in it, for files given by path."""
    known = {path.removesuffix(".py").removesuffix("/__init__"): path for path in trees}
    found = {path: set() for path in trees}
    for path, tree in trees.items():
        for _, name, ours in imports(path, tree):
            target = known.get(name) or known.get(name.rpartition("/")[0])
            if ours and target not in (None, path):
                found[path].add(target)
    return found


def room_of(path: str) -> str:
    """A sub-folder of a top-level folder is one room; so is a file that stands beside them."""
    return "/".join(Path(path).parts[:2])


def between_rooms(files: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    rooms = {room_of(path): set() for path in files}
    for path, targets in files.items():
        rooms[room_of(path)] |= {room_of(t) for t in targets} - {room_of(path)}
    return rooms


def in_circles(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Every place that lies on a circle of the graph: one that can be reached from itself."""

    def reached(start: str) -> set[str]:
        seen, todo = set(), list(graph[start])
        while todo:
            place = todo.pop()
            if place not in seen:
                seen.add(place)
                todo += graph[place]
        return seen

    return sorted(place for place in graph if place in reached(place))


def test_no_circle_among_files():
    circle = in_circles(arrows({path: parse(path) for path in PRODUCT}))
    assert not circle, f"these files import each other: {circle}"


def test_no_circle_among_rooms():
    """Without a circle there is an order in which every arrow runs down, inside a folder too."""
    files = arrows({path: parse(path) for path in PRODUCT})
    circle = in_circles(between_rooms(files))
    told = [
        f"{path} imports {target}"
        for path, targets in files.items()
        for target in sorted(targets)
        if room_of(path) != room_of(target) and {room_of(path), room_of(target)} <= {*circle}
    ]
    assert not circle, f"these rooms import each other: {circle}\n" + "\n".join(told)


@pytest.mark.parametrize(
    ("sources", "files", "rooms"),
    [
        ({"k/a.py": "from . import b", "k/b.py": ""}, [], []),
        (
            {"k/a.py": "from .b import x", "k/b.py": "def f():\n    from .a import y"},
            ["k/a.py", "k/b.py"],
            ["k/a.py", "k/b.py"],
        ),
        # Every file is fine by itself, and yet neither folder comes first.
        (
            {
                "k/up/a.py": "from ..down.a import x",
                "k/up/b.py": "",
                "k/down/a.py": "",
                "k/down/b.py": "from ..up.b import x",
            },
            [],
            ["k/down", "k/up"],
        ),
        (
            {"k/up/a.py": "from .. import flat", "k/flat.py": "from .up import b", "k/up/b.py": ""},
            [],
            ["k/flat.py", "k/up"],
        ),
    ],
)
def test_circles_are_found(sources, files, rooms):
    found = arrows({path: ast.parse(source) for path, source in sources.items()})
    assert in_circles(found) == files
    assert in_circles(between_rooms(found)) == rooms


def test_root_imports_nothing_at_module_level():
    """pytest and ComfyUI both import the root; with imports inside the entry point it is free."""
    tree = parse("__init__.py")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    outside = [node for node in tree.body if not isinstance(node, functions)]
    early = [
        node.lineno
        for statement in outside
        for node in ast.walk(statement)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert not early, f"__init__.py imports at module level in lines {early}; move them inside"

    # With either of these, even empty, ComfyUI never calls the entry point.
    names = {n.id for node in outside for n in ast.walk(node) if isinstance(n, ast.Name)}
    assert not names & {"NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"}


def test_tests_never_name_our_folders_absolutely():
    """They load the pack by path (`jodi_pack`) or as it is installed (`comfyui_jodi`).

    By their own names our folders are other people's: `nodes` is ComfyUI's (and means just that in
    the checks that run inside one), `kernels` a package that transformers looks for.
    """
    wrong = [
        f"{path}:{line} imports {name}"
        for folder in FREE
        for path in files_of(folder)
        for line, name, ours in imports(path, parse(path))
        if not ours
        and name.split(".")[0] in (*FOLDERS, *FREE)
        and not (name.split(".")[0] == "nodes" and Path(path).name.startswith("checks_"))
    ]
    assert not wrong, "use jodi_pack.<name>:\n" + "\n".join(wrong)


DYNAMIC = ("__import__", "importlib.import_module", "import_module", "eval", "exec")


def options_of(call: ast.Call, literals: dict[str, ast.Dict]) -> dict[str, str]:
    """Keyword arguments of a call as source text, seeing through `**name` of a dict literal."""
    options = {}
    for keyword in call.keywords:
        if keyword.arg is not None:
            options[keyword.arg] = ast.unparse(keyword.value)
        elif (literal := literals.get(ast.unparse(keyword.value))) is not None:
            pairs = zip(literal.keys, literal.values, strict=True)
            options |= {k.value: ast.unparse(v) for k, v in pairs if isinstance(k, ast.Constant)}
    return options


def forbidden_calls(tree: ast.AST) -> list[tuple[int, str]]:
    """Calls that get round the table or the safe ways of loading, as (line, what)."""
    nodes = list(ast.walk(tree))
    literals = {
        ast.unparse(node.targets[0]): node.value
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    }
    found = []
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        name, options = ast.unparse(node.func), options_of(node, literals)
        lenient = options.get("strict", "True") != "True"
        if name in DYNAMIC or name.startswith("sys.path."):
            found.append((node.lineno, name))
        elif name == "torch.load" and options.get("weights_only") != "True":
            found.append((node.lineno, "torch.load without weights_only=True"))
        elif name.endswith("load_state_dict") and lenient:
            found.append((node.lineno, "load_state_dict that is not strict"))
    return found


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import_module('nodes')", 1),
        ("sys.path.insert(0, root)", 1),
        ("torch.load(path, map_location='cpu')", 1),
        ("torch.load(path, weights_only=True)", 0),
        ("safe = {'weights_only': True}\ntorch.load(path, **safe)", 0),
        ("unsafe = {'weights_only': False}\ntorch.load(path, **unsafe)", 1),
        ("torch.load(path, **unknown)", 1),
        ("model.load_state_dict(state, strict=False)", 1),
        ("model.load_state_dict(state)", 0),
        ("model.eval()", 0),
        ("exec(text)", 1),
    ],
)
def test_forbidden_calls_are_found(source, count):
    assert len(forbidden_calls(ast.parse(source))) == count


def test_no_forbidden_calls():
    wrong = [
        f"{path}:{line} calls {what}"
        for path in PRODUCT
        for line, what in forbidden_calls(parse(path))
    ]
    assert not wrong, "\n".join(wrong)
