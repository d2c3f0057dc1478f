"""Policies of the user's own: a file or a module that registers them is imported before a config is.

A file needs no package and no place on the path. What it registers by decorator is then known by
name to `--set`, as the policies that ship are.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

from twin.failures import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

_loaded: set[Path] = set()


def load_plugins(files: Sequence[str], modules: Sequence[str]) -> None:
    """Import policy files and modules.

    Raises:
        BadInput: where one is missing or fails as it is imported; names the file and the line.
    """
    for file in files:
        _load_file(Path(file))
    here = str(Path.cwd())
    if modules and here not in sys.path:
        sys.path.insert(0, here)  # a console script does not look where it is called
    for module in modules:
        try:
            _loaded.add(Path(import_module(module).__file__ or module).resolve())
        except Exception as error:
            raise BadInput(f"--import {module}: {_described(error)}") from error


def _load_file(given: Path) -> None:
    path = given.resolve()
    if path in _loaded:
        return
    if not path.is_file():
        raise BadInput(
            f"--policy {given}: no such file; give a Python file that registers policies, or "
            "--import MODULE for a module"
        )
    name = f"policy_file_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"--policy {given}: is not a Python file (its name ends in .py)")
    module = module_from_spec(spec)
    sys.modules[name] = module  # annotations and dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        line = _line_in(error, {path})
        where = f"{given}, line {line}" if line else str(given)
        raise BadInput(f"--policy {where}: {_described(error)}") from error
    _loaded.add(path)


def blamed(error: BaseException) -> str | None:
    """Where in a user's own policy an error came up; None if it came up elsewhere.

    In its file, or in a method that its class has from the base class: a sort of keys that cannot be
    compared, a method that the class was to define.
    """
    at: BaseException | None = error
    while at is not None:
        for frame, line in reversed(list(traceback.walk_tb(at.__traceback__))):
            where = frame.f_code.co_filename
            if Path(where) in _loaded:
                place = f"{where}, line {line}, in {frame.f_code.co_name}"
                return f"the policy failed: {place}: {_described(error)}"
            cls = type(frame.f_locals.get("self"))
            defined = getattr(sys.modules.get(cls.__module__), "__file__", None)
            if defined is not None and Path(defined) in _loaded:
                place = f"{defined}, class {cls.__name__}, in {frame.f_code.co_name}"
                return f"the policy failed: {place}: {_described(error)}"
        at = at.__cause__
    return None


def _line_in(error: Exception, files: set[Path]) -> int | None:
    if isinstance(error, SyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno for f in reversed(frames) if Path(f.filename) in files), None)


def _described(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    if isinstance(error, NotImplementedError) and not text:
        text = "its class has to define this"
    return f"{type(error).__name__}: {text}"
