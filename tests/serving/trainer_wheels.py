"""The clients of other trainers, from their own wheels: downloaded without dependencies, loaded alone.

Their packages need ray, vLLM or DeepSpeed to import, so single modules and functions are taken out
of the wheels and run as they are. vLLM's own wheel (336 MB, 0.33.0) and slime (not on PyPI) are not
among them; their requests are rebuilt where they are tested, with the file they were read from.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

VERSIONS = {"openrlhf": "0.11.2", "verl": "0.9.1", "llamafactory": "0.9.5"}


def download(folder: Path) -> str | None:
    """Unpack all wheels below ``folder``; why it cannot be done, or None."""
    named = [f"{name}=={version}" for name, version in VERSIONS.items()]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", "."]
    # pure Python inside, whatever tag OpenRLHF's wheel has
    command += ["--only-binary", ":all:", "--platform", "manylinux1_x86_64", "--platform", "any"]
    command += ["--python-version", "3.11", "--timeout", "30", "--retries", "1", *named]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return done.stderr.strip().splitlines()[-1]
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder / wheel.name.split("-")[0])
    return None


def find(folder: Path, name: str) -> Path:
    """The one file whose path ends in ``name``."""
    (found,) = [path for path in folder.rglob(Path(name).name) if path.as_posix().endswith(name)]
    return found


def load_file(path: Path, name: str) -> types.ModuleType:
    """A module alone; what it imports must be there or stubbed."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stub(name: str, **attributes: Any) -> types.ModuleType:
    """An empty module with some attributes, that also passes for a package."""
    module = types.ModuleType(name)
    module.__path__ = []
    module.__dict__.update(attributes)
    return module


def functions(path: Path, *names: str, **namespace: Any) -> dict[str, Any]:
    """Functions of a file, run as they are in a namespace that has what they use."""
    kept = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") in names]
    return _run(kept, path, namespace)


def methods(path: Path, owner: str, *names: str, **namespace: Any) -> type:
    """A class with these methods of a class in a file."""
    (found,) = [n for n in ast.parse(path.read_text()).body if getattr(n, "name", "") == owner]
    found.body = [node for node in found.body if getattr(node, "name", "") in names]
    found.bases = []
    return _run([found], path, namespace)[owner]


def _run(nodes: list[ast.stmt], path: Path, namespace: dict[str, Any]) -> dict[str, Any]:
    lazy = ast.parse("from __future__ import annotations").body  # annotations name what is not here
    tree = ast.fix_missing_locations(ast.Module(body=[*lazy, *nodes], type_ignores=[]))
    exec(compile(tree, str(path), "exec"), namespace)
    return namespace
