"""docs/architecture.md shows the modules as they are: its tables and arrows are held against the real imports."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "architecture.md"
PACKAGES = ["rjpeg", "device", "server", "calibration_data", "train", "export", "evaluate", "benchmarks"]
NETWORK_LIBRARIES = {"tensorflow", "keras"}
HTTP_LIBRARIES = {"fastapi", "starlette", "uvicorn", "h11"}


def modules(root, packages):
    """{dotted name: file} of all modules of some packages."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_in(tree, known, body_only=False):
    """The dotted names that a module imports; of those in `known`, the module itself rather than its package."""
    found = set()
    for node in tree.body if body_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in known else node.module)
    return found


def imports_of(root, packages):
    """{module: modules of the packages that it imports, anywhere in its text}."""
    known = modules(root, packages)
    return {
        name: (imports_in(ast.parse(path.read_text("utf-8")), known) & known.keys()) - {name}
        for name, path in known.items()
    }


def circles(graph):
    """Sets of names that reach each other along the arrows of a graph, two and more each."""

    def reached(start):
        seen, ahead = set(), list(graph[start])
        while ahead:
            if (name := ahead.pop()) not in seen:
                seen.add(name)
                ahead += graph[name]
        return seen

    beyond = {name: reached(name) for name in graph}
    each = [frozenset({b for b in beyond[a] if a in beyond[b]} | {a}) for a in graph if a in beyond[a]]
    return {circle for circle in each if len(circle) > 1}


def section(text, heading):
    """What stands below a second-level heading."""
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]


def parts_of(text):
    """{part: names in its second column}, from the top of a section's table to its bottom."""
    rows = re.findall(r"^\| \*\*(\w+)\*\* \|([^|]*)\|", text, re.MULTILINE)
    parts = {part: re.findall(r"`([\w.]+)`", names) for part, names in rows}
    assert len(parts) == len(rows), "each part has one row"
    return parts


def arrows_of(text):
    """(part, part) for each arrow of a section's Mermaid diagram; `a --> b & c` stands for two."""
    diagram = re.search(r"```mermaid\n(.*?)```", text, re.DOTALL)[1]
    found = []
    for start, ends in re.findall(r"^\s*(\w+) --> (.+)$", diagram, re.MULTILINE):
        found += [(start, end.strip()) for end in ends.split("&")]
    assert len(found) == len(set(found)), "each arrow is drawn once"
    return set(found)


@functools.cache
def all_imports():
    return imports_of(ROOT, PACKAGES)


def part_arrows(imports, package, parts):
    """(part, part) for each import between two parts of a package; every module is of one part."""
    start = f"{package}."
    inside = {name.removeprefix(start): names for name, names in imports.items() if name.startswith(start)}
    home = {}
    for module in inside:
        of = [part for part, names in parts.items() if any(module == n or module.startswith(f"{n}.") for n in names)]
        assert len(of) == 1, f"{package}.{module} is in {of or 'no part'} of {DOCUMENT.name}, expected one"
        home[module] = of[0]
    named = {name for names in parts.values() for name in names}
    assert not [name for name in named if not any(m == name or m.startswith(f"{name}.") for m in inside)]
    found = set()
    for module, names in inside.items():
        for name in names:
            target = name.removeprefix(start)
            if name.startswith(start) and home[target] != home[module]:
                found.add((home[module], home[target]))
    return found


def check(text, heading, real):
    """A section's arrows are the real ones, and all of them point down its table."""
    part = section(text, heading)
    order, drawn = list(parts_of(part)), arrows_of(part)
    assert {name for arrow in drawn for name in arrow} <= set(order), "drawn, and no part"
    assert sorted(drawn - real) == [], "drawn, and no import"
    assert sorted(real - drawn) == [], "imported, and not drawn"
    assert [(a, b) for a, b in drawn if order.index(a) >= order.index(b)] == [], "upwards"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heading", "package"), [("The device", "device"), ("The server", "server"), ("The library", "rjpeg")]
)
def test_the_diagram_shows_the_imports_between_the_parts(heading, package):
    text = DOCUMENT.read_text("utf-8")
    check(text, heading, part_arrows(all_imports(), package, parts_of(section(text, heading))))


@pytest.mark.slow
def test_the_diagram_shows_the_imports_between_the_packages():
    text = DOCUMENT.read_text("utf-8")
    assert sorted(parts_of(section(text, "Packages"))) == sorted(PACKAGES)
    real = {
        (name.partition(".")[0], other.partition(".")[0])
        for name, others in all_imports().items()
        for other in others
        if name.partition(".")[0] != other.partition(".")[0]
    }
    check(text, "Packages", real)


def test_the_library_imports_no_other_package_and_both_ends_import_only_the_library():
    for name, others in all_imports().items():
        package = name.partition(".")[0]
        allowed = {"rjpeg": {"rjpeg"}, "device": {"device", "rjpeg"}, "server": {"server", "rjpeg"}}.get(package)
        if allowed is not None:
            assert {other.partition(".")[0] for other in others} <= allowed, name


def test_no_modules_import_each_other():
    # what is asked of a package's own module, such as the compiled `_native`, asks nothing of its other modules
    graph = {name: others - set(PACKAGES) for name, others in all_imports().items()}
    assert circles(graph) == set()


@pytest.mark.slow
def test_tensorflow_is_imported_when_a_network_is_trained_or_exported_and_nowhere_else():
    for name, path in modules(ROOT, PACKAGES).items():
        if name.partition(".")[0] in ("train", "export"):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        roots = {found.partition(".")[0] for found in imports_in(tree, {})}
        assert "tensorflow" not in roots, name
        # in a function, for who gives a Keras file of his own
        at_once = {found.partition(".")[0] for found in imports_in(tree, {}, body_only=True)}
        assert not at_once & NETWORK_LIBRARIES, name


@pytest.mark.slow
def test_http_is_spoken_in_the_api_of_the_server_and_nowhere_else_in_it():
    speaking = {
        name
        for name, path in modules(ROOT, ["server"]).items()
        if HTTP_LIBRARIES & {found.partition(".")[0] for found in imports_in(ast.parse(path.read_text("utf-8")), {})}
    }
    assert speaking
    assert [name for name in sorted(speaking) if not name.startswith("server.api.")] == []


def test_an_undrawn_import_an_arrow_upwards_and_a_circle_are_found(tmp_path):
    (tmp_path / "kit").mkdir()
    for name, text in {
        "__init__": "",
        "top": "from kit import middle\n",
        "middle": "def later():\n    from kit.low import thing\n",
        "low": "import kit.top\n",
    }.items():
        (tmp_path / "kit" / f"{name}.py").write_text(text)
    imports = imports_of(tmp_path, ["kit"])
    assert circles(imports) == {frozenset({"kit.top", "kit.middle", "kit.low"})}
    rows = "## Cameras\n| **above** | `top` |\n| **between** | `middle` |\n| **below** | `low` |\n"
    drawn = "```mermaid\nflowchart TD\n    above --> between\n    between --> below\n{}```\n"
    real = part_arrows(imports, "kit", parts_of(rows))
    assert real == {("above", "between"), ("between", "below"), ("below", "above")}
    with pytest.raises(AssertionError, match="not drawn"):
        check(rows + drawn.format(""), "Cameras", real)
    with pytest.raises(AssertionError, match="upwards"):
        check(rows + drawn.format("    below --> above\n"), "Cameras", real)
    with pytest.raises(AssertionError, match="no import"):
        check(rows + drawn.format("    above --> below\n"), "Cameras", real | {("above", "between")})
    with pytest.raises(AssertionError, match="in no part"):
        part_arrows(imports, "kit", parts_of(rows.replace("`low`", "")))
