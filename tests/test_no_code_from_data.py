"""Our own source never runs code that a data file may contain."""

import ast

import pytest
from places import ROOT

SOURCES = sorted([*ROOT.glob("mufin_jax/**/*.py"), *ROOT.glob("experiments/**/*.py")])
FORBIDDEN = {
    "pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch", "yaml",
    "runpy", "builtins",
}  # fmt: skip
RUNNERS = {"eval", "exec", "compile", "__import__"}
METHODS = {"extractall", "unpack_archive", "read_pickle", "unsafe_load", "system", "popen"}


def offences(source: str) -> list[str]:
    """Return what in a source would run code from data, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                modules = {name.name.partition(".")[0] for name in names}
            case ast.ImportFrom(module=str(module)):
                modules = {module.partition(".")[0]}
            case _:
                modules = set()
        found += [f"{node.lineno}: imports {name}" for name in modules & FORBIDDEN]
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in RUNNERS:
                found.append(f"{node.lineno}: calls {name}")
            case ast.Call(func=ast.Attribute(attr=name)) if name in METHODS:
                found.append(f"{node.lineno}: calls {name}")
            case ast.ImportFrom(module="numpy", names=names):
                found += [f"{node.lineno}: numpy's load" for name in names if name.name == "load"]
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="load"), keywords=given
            ):
                if not any(_forbids_objects(keyword) for keyword in given):
                    found.append(f"{node.lineno}: np.load without allow_pickle=False")
            case ast.Call(keywords=given) if any(
                keyword.arg == "allow_pickle" and not _forbids_objects(keyword) for keyword in given
            ):
                found.append(f"{node.lineno}: allow_pickle")
    return found


def _forbids_objects(keyword: ast.keyword) -> bool:
    value = keyword.value
    return (
        keyword.arg == "allow_pickle" and isinstance(value, ast.Constant) and value.value is False
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_runs_code_from_data(path):
    assert offences(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "import pickle",
        "import dill as d",
        "from joblib import load",
        "def f():\n    from _pickle import loads",
        "import numpy as np\nnp.load(path)",
        "np.load(path, mmap_mode='r', allow_pickle=True)",
        "np.load(path, allow_pickle=allowed)",
        "np.lib.format.read_array(file, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "archive.extractall(folder)",
        "shutil.unpack_archive(path)",
        "from numpy import load",
        "import torch",
        "frame = pd.read_pickle(path)",
        "os.system(command)",
    ],
)
def test_each_way_to_run_code_from_data_is_found(wrong):
    assert len(offences(wrong)) == 1


def test_harmless_code_passes():
    assert offences("import pickletools\nnp.load(path, allow_pickle=False)\nre.compile('x')") == []
