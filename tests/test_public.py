"""What is public: names and signatures, what an import costs, the licence, and what a new sampler takes."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "public_api.txt"
SOURCES = sorted((ROOT / "src" / "unnoise").rglob("*.py"))

LISTING = """
import importlib, inspect, pkgutil, types
import unnoise

def signature(thing):
    # Names, kinds and defaults; the types are mypy's to watch.
    s = inspect.signature(thing)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in s.parameters.values()]
    return s.replace(parameters=bare, return_annotation=inspect.Signature.empty)

def lines(name, thing):
    if isinstance(thing, types.ModuleType):
        return
    if not callable(thing):
        yield f"{name}: {type(thing).__name__}"
        return
    try:
        yield f"{name}{signature(thing)}"
    except ValueError:
        yield name
    if isinstance(thing, type):
        own = [c for c in thing.__mro__ if c.__module__.partition(".")[0] == "unnoise"]
        for k in sorted({k for c in own for k in vars(c)}):
            v = inspect.getattr_static(thing, k)
            f = v.__func__ if isinstance(v, (staticmethod, classmethod)) else v
            if k.startswith("_") and k != "__call__":
                continue
            if isinstance(f, types.FunctionType):
                yield f"{name}.{k}{signature(f)}"
            elif isinstance(f, property):
                yield f"{name}.{k}: property"

packages = ["unnoise", *(f"unnoise.{m.name}" for m in pkgutil.iter_modules(unnoise.__path__) if m.ispkg)]
for package in packages:
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        for line in lines(f"{package}.{name}", getattr(module, name)):
            print(line)
"""


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints: without pytest, and without the run-time checker of tests/conftest.py."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names_and_signatures_are_these() -> None:
    """A change here is a change for everybody's code: it goes into CHANGELOG.md, and then into the snapshot.

    To write the snapshot anew: UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/test_public.py
    """
    found = python(LISTING)
    assert " at 0x" not in found, "a default that is not a value"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(found, encoding="utf8")
    old, new = GOLDEN.read_text(encoding="utf8").splitlines(), found.splitlines()
    gone, come = [x for x in old if x not in new], [x for x in new if x not in old]
    assert old == new, "\n".join(
        ["the public API changed: see this test's docstring", *(f"- {x}" for x in gone), *(f"+ {x}" for x in come)]
    )


def test_every_public_name_is_there_once_and_documented() -> None:
    import unnoise

    assert len(unnoise.__all__) == len(set(unnoise.__all__))
    for name in unnoise.__all__:
        thing = getattr(unnoise, name)
        if callable(thing):
            assert (thing.__doc__ or "").strip(), f"unnoise.{name} has no docstring"


def test_an_import_is_light() -> None:
    """Extras and heavy libraries are imported where they are used, and not by `import unnoise`."""
    heavy = ("sklearn", "scipy", "tensorboard", "matplotlib", "pandas", "tensorflow", "torchvision", "beartype")
    code = "import sys, unnoise; {}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    loaded = python(code.format("unnoise.Model")).split()
    assert "torch" in loaded
    assert not set(heavy) & set(loaded)
    assert not {"torch", "numpy", *heavy} & set(
        python(code.format("set(unnoise.__all__) <= set(dir(unnoise))")).split()
    )


def test_public_names_come_when_they_are_asked_for() -> None:
    """Each by itself, in an interpreter that has imported nothing else of ours; another name is an AttributeError."""
    assert python("import unnoise as un; print(hasattr(un, 'Euler'), un.sample.Euler())") == "False Euler()\n"
    assert python("from unnoise import *; print(Model.__name__, len(core.__name__))") == "Model 12\n"
    assert python("from unnoise import errors; import sys; print('torch' in sys.modules)") == "False\n"


def test_an_import_does_no_work() -> None:
    """No thread, no file written, no draw from torch's generator, no change of a default."""
    before = "import torch, threading; s = torch.get_rng_state(); d = torch.get_default_dtype()"
    after = "print(torch.equal(s, torch.get_rng_state()), d == torch.get_default_dtype(), threading.active_count())"
    assert python(f"{before}; import unnoise; unnoise.Model; {after}").split() == ["True", "True", "1"]


def test_the_licence_is_permissive_and_stated_everywhere() -> None:
    """Pitfall 37."""
    text = (ROOT / "LICENSE").read_text(encoding="utf8")
    assert text.startswith("MIT License") and "Permission is hereby granted, free of charge" in text
    metadata = importlib.metadata.metadata("unnoise")
    assert "MIT" in (metadata.get("License-Expression"), metadata.get("License"))
    assert "LICENSE" in (metadata.get_all("License-File") or [])
    for required in importlib.metadata.requires("unnoise") or []:
        assert "edm" not in required and "flow" not in required  # nothing non-commercial below us


def test_the_version_is_written_once() -> None:
    import unnoise

    assert importlib.metadata.version("unnoise") == unnoise.__version__


def test_private_names_stay_in_their_file() -> None:
    """Nothing imports another file's _name, nor reaches for it through the module."""
    for file in SOURCES:
        tree = ast.parse(file.read_text(encoding="utf8"))
        modules = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and ((node.module or "").startswith("unnoise") or node.level):
                names = [a.name for a in node.names]
                private = [n for n in names if n.startswith("_") and not n.endswith("__")]
                assert not private, f"{file.relative_to(ROOT)} imports {private} of {node.module}"
                modules |= {a.asname or a.name for a in node.names if a.name.islower()}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                name = node.attr
                assert not name.startswith("_") or name.endswith("__"), f"{file.relative_to(ROOT)}: {ast.unparse(node)}"


NEW_SAMPLER = '''
"""Euler's method, as somebody else would write it."""

from dataclasses import dataclass
from typing import ClassVar

from unnoise.core.sampler import Step


@dataclass(frozen=True)
class Mine:
    """A sampler of one's own."""

    strength: float = 1.0

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    coupled: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False

    def coefficients(self, levels):
        return None

    def init(self, x):
        return None

    def step(self, process, denoise, x, row, rng, carry):
        est = denoise(x, row.src, to=row.dst)
        src, dst = row.src.like(x), row.dst.like(x)
        eps = (x - src.alpha * est.x0) / src.sigma
        return Step(dst.alpha * est.x0 + self.strength * dst.sigma * eps, est)
'''


def test_a_new_sampler_is_one_file_and_one_line(tiny: Path, tmp_path: Path) -> None:
    """Pitfall 38: the command line lists it, takes it by name, and saves what was made with it."""
    (tmp_path / "mine.py").write_text(NEW_SAMPLER)
    code = f"""
        import unnoise.sample
        unnoise.sample.__path__.append({str(tmp_path)!r})  # as if the file lay there
        from unnoise.sample.mine import Mine               # the one line ..
        unnoise.sample.Mine = Mine
        unnoise.sample.__all__.append("Mine")              # .. in __init__.py

        import numpy as np
        import torch
        from unnoise.cli import main

        torch.set_num_threads(1)
        assert main(["list"]) == 0
        run, out = {str(tiny)!r}, {str(tmp_path)!r}
        asked = ["sample", run, "-n", "4", "--steps", "5", "--cond", "label=all", "--sampler"]
        assert main([*asked, "mine", "--out", out + "/mine.npz"]) == 0
        assert main([*asked, "Euler", "--out", out + "/euler.npz"]) == 0
        assert main([*asked, "Mine(strength=0.5)", "--out", out + "/half.npz"]) == 0
        a, b, c = (np.load(out + f"/{{k}}.npz")["x"].astype(int) for k in ("mine", "euler", "half"))
        assert abs(a - b).max() <= 1 and abs(a - c).max() > 1
        model = unnoise.Model.load(run)
        model.sampling = unnoise.Sampling(sampler=Mine(strength=0.5), grid=model.sampling.grid, steps=5)
        model.save(out + "/model")
        assert unnoise.Model.load(out + "/model").sampling.sampler == Mine(strength=0.5)
        assert main(["sample", run, "--sampler", "Mien", "--out", out + "/x.npz"]) == 2
    """
    out = python(textwrap.dedent(code), OMP_NUM_THREADS="1")
    assert re.search(r"^  Mine +A sampler of one's own\.$", out, re.MULTILINE)
