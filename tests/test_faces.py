"""The face of every package: its public names, without importing JAX."""

import json
import subprocess
import sys

import pytest

FACES = """
import importlib, json, pkgutil, sys
import mufin_jax

found = {}
for module in pkgutil.walk_packages(mufin_jax.__path__, "mufin_jax."):
    if module.ispkg:
        face = importlib.import_module(module.name)
        assert "jax" not in sys.modules, f"{module.name} imports jax"
        found[module.name] = face
facts = {}
for name, face in found.items():
    listed = list(getattr(face, "__all__", ()))
    missing = [one for one in listed if getattr(face, one, None) is None or one not in dir(face)]
    files = {module.name for module in pkgutil.iter_modules(face.__path__)}
    facts[name] = [listed, missing, sorted(files & set(listed)), face.__doc__ or ""]
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def faces():
    """For each package: its names, those that do not resolve, those of files, its docstring."""
    done = subprocess.run([sys.executable, "-c", FACES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) > 14
    return found


def test_every_package_offers_names_and_all_of_them_resolve(faces):
    assert {name: missing for name, (_, missing, *_) in faces.items() if missing} == {}
    assert [name for name, (listed, *_) in faces.items() if not listed] == []


def test_no_public_name_is_the_name_of_a_file_of_its_package(faces):
    assert {name: shadowed for name, (*_, shadowed, _) in faces.items() if shadowed} == {}


def test_every_package_describes_what_lives_in_it(faces):
    assert [name for name, (*_, doc) in faces.items() if len(doc.split()) <= 10] == []
