"""Who may import whom: nodes -> cores -> kernels -> torch, one direction. Read from the source."""

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

NUMERIC = frozenset({"torch", "einops", "numpy", "safetensors", "PIL"})


@dataclass(frozen=True)
class Layer:
    """What one folder may import: top-level packages of others, and module prefixes of ours."""

    external: frozenset[str]
    own: tuple[str, ...]
    host: bool = False  # ComfyUI's modules, see is_host


LAYERS = {
    "kernels": Layer(frozenset({"torch"}), ("kernels",)),
    "jodi_core": Layer(NUMERIC, ("jodi_core", "kernels")),
    "ddit_core": Layer(
        NUMERIC,
        (
            "ddit_core",
            "kernels",
            "jodi_core.errors",
            "jodi_core.sampling",
            "jodi_core.checkpoint",
            "jodi_core.images",
            "jodi_core.autoencoder",
            "jodi_core.training",
        ),
    ),
    "benchmarks": Layer(NUMERIC, ("benchmarks", "jodi_core", "kernels")),
    "cli": Layer(NUMERIC, ("cli", "jodi_core", "ddit_core", "benchmarks")),
    "nodes": Layer(NUMERIC, ("nodes", "jodi_core", "ddit_core"), host=True),
}
FREE = ("tests",)  # may import what it likes, but for one thing below
NOT_OURS = ("build", "output", "runs", "node_modules")  # .gitignore names them


def modules_of(layer: str) -> list[str]:
    return sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / layer).rglob("*.py"))


PRESENT = [name for name in LAYERS if modules_of(name)]
PRODUCT = ["__init__.py", *(path for name in PRESENT for path in modules_of(name))]


def parse(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), path)


def imports(path: str, tree: ast.AST) -> list[tuple[int, str, bool]]:
    """Every import of a file as (line, dotted name, is ours).

    A relative import is resolved from the root: `from ..kernels import x` in jodi_core/a.py gives
    "kernels.x". One that climbs out of the root gives "..".
    """
    package = Path(path).parent.parts
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = package[: len(package) - (node.level - 1)] if node.level else ()
            if node.level > len(package) + 1:
                found.append((node.lineno, "..", True))
                continue
            base = [*inside, *filter(None, [node.module])]
            dotted = [".".join([*base, alias.name]) for alias in node.names]
            found += [(node.lineno, name, node.level > 0) for name in dotted]
    return found


def is_host(name: str) -> bool:
    modules = ("folder_paths", "latent_preview")
    return name in modules or (name.startswith("comfy") and name != "comfyui_jodi")


def within(name: str, prefix: str) -> bool:
    """Whether `name` is `prefix` or inside it; a file split in two (`checkpoint_x`) counts too."""
    return re.match(rf"{re.escape(prefix)}(_\w+)?(\.|$)", name) is not None


def violations(layer: str, path: str, tree: ast.AST) -> list[str]:
    """What a file of `layer` imports that the table does not allow, one line each."""
    rule = LAYERS[layer]
    allowed = set(rule.external)
    if layer == "kernels" and Path(path).name.startswith("triton_"):
        allowed.add("triton")
    wrong = []
    for line, name, ours in imports(path, tree):
        top = name.split(".")[0]
        if ours:
            fine = any(within(name, prefix) for prefix in rule.own)
        elif is_host(top):
            # Internals of the host change between versions: one file touches them.
            fine = rule.host and (
                top in ("comfy_api", "folder_paths") or Path(path).name.startswith("_host")
            )
        else:
            fine = top in sys.stdlib_module_names or top in allowed
        if not fine:
            wrong.append(f"{path}:{line} imports {name}")
    return wrong


@pytest.mark.parametrize("layer", PRESENT)
def test_imports_follow_the_table(layer):
    wrong = [w for path in modules_of(layer) for w in violations(layer, path, parse(path))]
    rule = LAYERS[layer]
    assert not wrong, (
        f"{layer} may import the standard library, {', '.join(sorted(rule.external))} and of our "
        f"own {', '.join(rule.own)} (relatively); CONTRIBUTING.md has the table:\n"
        + "\n".join(wrong)
    )


@pytest.mark.parametrize(
    ("path", "source", "allowed"),
    [
        ("kernels/a.py", "import torch.nn.functional as F", True),
        ("kernels/a.py", "from . import reference", True),
        ("kernels/a.py", "import numpy", False),
        ("kernels/a.py", "import triton", False),
        ("kernels/triton_a.py", "import triton.language as tl", True),
        ("kernels/a.py", "from ..jodi_core import errors", False),
        ("jodi_core/a.py", "from ..kernels.dispatch import linear_attention", True),
        ("jodi_core/a.py", "from .. import kernels", True),
        ("jodi_core/training/a.py", "from ..errors import JodiError", True),
        ("jodi_core/training/a.py", "from ...cli.main import main", False),
        ("jodi_core/a.py", "def f():\n    from ..nodes import x", False),
        ("jodi_core/a.py", "from jodi_core.errors import JodiError", False),
        ("jodi_core/a.py", "import comfyui_jodi.jodi_core", False),
        ("jodi_core/a.py", "import scipy.ndimage", False),
        ("jodi_core/a.py", "import folder_paths", False),
        ("jodi_core/a.py", "from ....outside import x", False),
        ("ddit_core/a.py", "from ..jodi_core.sampling import sample_euler", True),
        ("ddit_core/a.py", "from ..jodi_core.checkpoint_faults import explain", True),
        ("ddit_core/a.py", "from ..jodi_core.transformer import JodiTransformer", False),
        ("cli/a.py", "from ..jodi_core.pipeline import JodiPipeline", True),
        ("cli/a.py", "from ..kernels import dispatch", False),
        ("cli/a.py", "from ..benchmarks import runner", True),
        ("benchmarks/a.py", "from ..jodi_core.pipeline import JodiPipeline", True),
        ("benchmarks/a.py", "from ..kernels import reference", True),
        ("benchmarks/a.py", "from ..cli.options import positive", False),
        ("jodi_core/a.py", "from ..benchmarks import runner", False),
        ("nodes/a.py", "from comfy_api.latest import io", True),
        ("nodes/a.py", "import comfy.utils", False),
        ("nodes/a.py", "import latent_preview", False),
        ("nodes/_host.py", "import comfy.utils", True),
        ("nodes/_host.py", "import latent_preview", True),
        ("nodes/a.py", "import nodes", False),
        ("nodes/_host.py", "import comfyui_jodi", False),
        ("nodes/_host.py", "import latent_preview", True),
        ("nodes/a.py", "import latent_preview", False),
        ("nodes/a.py", "import folder_paths", True),
        ("nodes/a.py", "from ..cli import main", False),
    ],
)
def test_the_check_itself(path, source, allowed):
    assert (not violations(path.split("/")[0], path, ast.parse(source))) == allowed


def test_every_folder_has_a_row():
    unknown = [
        folder.name
        for folder in sorted(ROOT.glob("[!.]*/"))
        if folder.name not in (*LAYERS, *FREE, *NOT_OURS)
        and not (folder / "pyvenv.cfg").exists()
        and any(folder.rglob("*.py"))
    ]
    assert not unknown, f"give {unknown} a row in LAYERS, and in CONTRIBUTING.md"


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

    for line, name, ours in imports("__init__.py", tree):
        top = name.split(".")[0]
        fine = top == "nodes" if ours else top in sys.stdlib_module_names or is_host(top)
        assert fine, f"__init__.py:{line} imports {name}; it may import .nodes and the host"


def test_tests_never_name_our_folders_absolutely():
    """They load the pack by path (`jodi_pack`) or as it is installed (`comfyui_jodi`).

    By their own names our folders are other people's: `nodes` is ComfyUI's (and means just that in
    the checks that run inside one), `kernels` a package that transformers looks for.
    """
    wrong = [
        f"{path}:{line} imports {name}"
        for folder in FREE
        for path in modules_of(folder)
        for line, name, ours in imports(path, parse(path))
        if not ours
        and name.split(".")[0] in (*LAYERS, *FREE)
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
