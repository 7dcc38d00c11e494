"""What a piece of source text imports, how long it is, what it leaves undocumented, what it must not use.

The text is parsed, never imported, so that no rule can be dodged by importing inside a function or under
`if TYPE_CHECKING`. `test_architecture.py` applies the checkers to the whole tree, and tests the checkers themselves.
"""

from __future__ import annotations

import ast
import dataclasses
import graphlib
from collections.abc import Container, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "moco"

# Bottom-up. A module may import its own room and rooms on lower lines; rooms on one line do not know of each other.
LAYERS = (
    {"printable", "streams"},
    {"errors", "version"},
    {"atomic", "fields", "normalization"},
    {"sizes"},
    {"config_checks"},
    {"config"},
    {"recipes"},
    {"config_file"},
    {"encoder"},
    {"contrast", "data"},
    {"training", "evaluation", "export", "transfer"},
    {"fit"},
    {"sweep"},
    {"commands"},
    {"cli"},
    {"__main__", "__init__"},
)
_BASE = {"printable", "streams", "errors", "version", "atomic", "config_checks", "fields", "normalization", "sizes"}
# Lower rooms that are closed all the same: the algorithm serves any data, data knows no network, evaluation no MoCo.
CLOSED = {
    "contrast": _BASE | {"config", "recipes", "config_file", "encoder"},
    "data": {"recipes", "config_file", "encoder"},
    "evaluation": {"config", "recipes", "config_file", "contrast"},
    "transfer": {"config", "recipes", "config_file"},
}
# These put the rooms of their line together.
ASSEMBLY = {
    "moco.training.pretrain": {"evaluation", "export"},
    "moco.training.figures": {"evaluation"},
}
# The same within transfer, whose rooms know nothing of those beside them.
TRANSFER = (
    {"label_maps", "pictures"},
    {"annotations"},
    {"networks"},
    {"detection", "semantic", "fine_tuning"},
    {"dense_pose"},
)
LONGEST_FUNCTION, LONGEST_FILE = 40, 300
NETWORK = {"requests", "urllib", "urllib3", "socket", "ssl", "http", "httpx", "aiohttp", "ftplib", "smtplib"}
LAZY = {"torchvision", "timm", "lightning", "lightning_fabric", "matplotlib", "transformers", "faster_coco_eval"}
HEAVY = LAZY | {"torch", "numpy", "PIL"}


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported name: `name` in full, `lazy` inside a function, `typing` under `if TYPE_CHECKING`."""

    name: str
    line: int
    lazy: bool = False
    typing: bool = False

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


def imports(source: str, module: str, *, is_package: bool = False) -> list[Import]:
    """Every import in the text of `module`, relative ones resolved, `import_module("constant")` included."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool, typing: bool) -> None:
        names = _imported(node, module, is_package)
        found.extend(Import(name, node.lineno, lazy, typing) for name in names)  # type: ignore[attr-defined]
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        hidden = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else []
        for child in ast.iter_child_nodes(node):
            visit(child, lazy, typing or child in hidden)

    visit(ast.parse(source), False, False)
    return found


def _imported(node: ast.AST, module: str, is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            kept = parts[: len(parts) - node.level + is_package]
            base = ".".join([*kept, *([base] if base else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        return [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return []


def room(name: str) -> str | None:
    """The room of a module of ours (`moco.data.paths` -> data); None for others' modules."""
    parts = name.split(".")
    if parts[0] != "moco":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in set().union(*LAYERS) else "__init__"


def wrong_directions(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports that the layers do not allow."""
    height = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    own = room(module)
    assert own is not None
    wrong = []
    for item in imports(source, module, is_package=is_package):
        other = room(item.name)
        if other is None or other == own:
            continue
        allowed = height[other] < height[own] or other in ASSEMBLY.get(module, ())
        if not allowed or other in CLOSED.get(own, ()):
            wrong.append(f"{module}:{item.line} imports {item.name}")
    return wrong


def wrong_directions_in_transfer(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports between the rooms of transfer that its layers do not allow, under functions and for types too."""
    height = {name: number for number, layer in enumerate(TRANSFER) for name in layer}
    own = _transfer_room(module)
    wrong = []
    for item in imports(source, module, is_package=is_package):
        other = _transfer_room(item.name)
        if other is not None and other != own and (own is None or height[other] >= height[own]):
            wrong.append(f"{module}:{item.line} imports {item.name}")
    return wrong


def _transfer_room(name: str) -> str | None:
    parts = name.split(".")
    return parts[2] if len(parts) > 2 and parts[:2] == ["moco", "transfer"] else None


def names_used(source: str, module: str = "moco.x") -> set[str]:
    """Imported modules and dotted names as written (`torch.distributed.barrier` gives its prefixes too)."""
    used = {item.name for item in imports(source, module)}
    used |= {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    return {".".join(name.split(".")[:length]) for name in used for length in range(1, name.count(".") + 2)}


def function_lengths(source: str) -> list[tuple[str, int]]:
    """Name and lines of each function, from `def` to the last line, docstring included."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [(node.name, node.end_lineno - node.lineno + 1) for node in found]  # type: ignore[operator]


def long_functions(source: str) -> list[str]:
    """Functions of more than 40 lines."""
    return [f"{name} has {length} lines" for name, length in function_lengths(source) if length > LONGEST_FUNCTION]


def undocumented(source: str) -> list[str]:
    """Public functions, classes and methods without a docstring, and the module itself; `forward` is PyTorch's."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else ["module"]

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if node.name.startswith("_") or node.name in ("forward", "backward"):
                    continue
                if not ast.get_docstring(node):
                    found.append(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{node.name}.")

    visit(tree.body, "")
    return found


def unsafe_reading(source: str) -> list[str]:
    """Uses of pickle, `torch.load` without weights_only=True, and `allow_pickle` that is not False."""
    found = [
        f"line {item.line}: {item.name}"
        for item in imports(source, "moco.x")
        # The exception's name is needed to catch what torch.load raises; it reads nothing.
        if item.top in {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
        and item.name != "pickle.UnpicklingError"
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            stated = {k.arg for k in node.keywords}
            if ast.unparse(node.func) == "torch.load" and given.get("weights_only") is not True:
                found.append(f"line {node.lineno}: torch.load")
            if "allow_pickle" in stated and given.get("allow_pickle") is not False:
                found.append(f"line {node.lineno}: allow_pickle")
    return found


def files(*folders: str) -> list[Path]:
    """All Python files below these folders of the repository."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def modules() -> Iterator[tuple[str, str, bool]]:
    """Dotted name, text and whether it is a package, for each module of ours."""
    for path in files("src"):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_package else parts), path.read_text(encoding="utf-8"), is_package


def import_graph(texts: dict[str, tuple[str, bool]], *, every: bool = False) -> dict[str, set[str]]:
    """Which of these modules each of them imports while it loads; with `every`, also inside functions and for types.

    `texts` maps a dotted name to text and whether it is a package, whose name stands for its `__init__`.
    """
    graph: dict[str, set[str]] = {}
    for module, (text, is_package) in texts.items():
        found = imports(text, module, is_package=is_package)
        names = [item.name for item in found if every or not (item.lazy or item.typing)]
        graph[module] = {known for name in names if (known := _defining(name, texts)) and known != module}
    return graph


def _defining(name: str, texts: Container[str]) -> str | None:
    """The module that an imported name is, or is in."""
    return name if name in texts else name.rpartition(".")[0] if name.rpartition(".")[0] in texts else None


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Circles in an import graph: as many as must be cut to leave none."""
    graph, found = {module: set(others) for module, others in graph.items()}, []
    while True:
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            circle = error.args[1]
            graph[circle[1]].discard(circle[0])
            found.append(circle)
        else:
            return found


def start_up(module: str) -> dict[str, list[Import]]:
    """The modules of ours that importing `module` loads, each with what it imports at module level."""
    known = {name: (text, is_package) for name, text, is_package in modules()}
    loaded: dict[str, list[Import]] = {}
    pending = [module]
    while pending:
        parts = pending.pop().split(".")
        for name in (".".join(parts[:length]) for length in range(1, len(parts) + 1)):
            if name in known and name not in loaded:
                found = imports(known[name][0], name, is_package=known[name][1])
                loaded[name] = [item for item in found if not item.lazy and not item.typing]
                pending.extend(item.name for item in loaded[name])
    return loaded
