"""What the documentation tells a reader to type does what it says."""

import argparse
import ast
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from unnoise import cli
from unnoise.commands import conditions

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text[: match.start()].count("\n") + 2, match[1], match[2])


def is_python(block: Block) -> bool:
    if block.language in ("python", "py"):
        return True
    try:  # a block of no language that is Python of ours
        return block.language == "" and "un." in block.text and bool(ast.parse(block.text))
    except SyntaxError:
        return False


def commands(first: str, pages: Sequence[Path] = PAGES) -> Iterator[tuple[str, str]]:
    """Every command line that begins so: in blocks a line each (continued by a backslash), and in `code` within a
    sentence."""
    for page in pages:
        prose = page.read_text(encoding="utf8")
        for block in blocks(page):
            prose = prose.replace(block.text, "")
            for line in block.text.replace("\\\n", " ").splitlines():
                bare = line.strip().removeprefix("$ ")
                if bare.startswith(first) and not is_python(block):
                    yield str(block), bare
        for inline in re.findall(rf"`({re.escape(first)}[^`]+)`", prose):
            yield str(page.relative_to(ROOT)), inline


COMMANDS = sorted(set(commands("unnoise ")))
PROGRAMS = sorted(set(commands("python benchmarks/", [page for page in PAGES if page.name != "lab-log.md"])))


def test_there_is_something_to_test() -> None:
    assert any(is_python(b) for b in blocks(ROOT / "README.md"))
    assert len(COMMANDS) >= 5 and len(PROGRAMS) >= 5


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=[c for _, c in COMMANDS])
def test_a_command_is_understood(where: str, command: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, *arguments = shlex.split(command, comments=True)
    parser = cli._parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as e:
        assert e.code == 0, f"{where}: {command}"  # --help and --version
        return
    understood(options)


def understood(o: argparse.Namespace) -> None:
    """Values that the parser takes as text are of the kind that the command takes."""
    from unnoise import recipes, sample
    from unnoise.core.sampler import Sampler
    from unnoise.override import override, parse

    if "recipe" in o and o.recipe in recipes.names():
        recipe = recipes.load(o.recipe)[0]
        for assignment in o.set:
            recipe = override(recipe, assignment)
    if getattr(o, "sampler", None):
        assert type(parse(o.sampler, Sampler, sample.Heun(), "--sampler")).__name__ in sample.__all__
    if getattr(o, "cond", None):
        assert conditions(o.cond)


@pytest.mark.parametrize(("where", "command"), PROGRAMS, ids=[c for _, c in PROGRAMS])
def test_a_program_has_the_options_that_it_is_given(where: str, command: str) -> None:
    """A program of benchmarks that a page tells a reader to run; the lab log's commands are of their time."""
    from unnoise import recipes
    from unnoise.override import override

    _, program, *words = shlex.split(command, comments=True)
    source = (ROOT / program).read_text(encoding="utf8")
    assert [w for w in words if re.match("--?[a-z]", w) and f'"{w}"' not in source] == [], f"{where}: {command}"
    recipe = recipes.load(words[0])[0] if words and words[0] in recipes.names() else recipes.load("cifar10")[0]
    for option, text in pairwise(words):
        named = text.partition(":")[2].split(";")
        settings = {"-s": [text], "--way": named, "--arm": named}.get(option, [])
        for setting in filter(None, map(str.strip, settings)):
            override(recipe, f"sampling.{setting}" if option == "--way" else setting)


@pytest.mark.parametrize("page", [p for p in PAGES if any(map(is_python, blocks(p)))], ids=lambda p: p.name)
def test_the_python_of_a_page_runs(
    page: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From top to bottom, in one namespace, in an empty folder with a run in runs/digits."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, "runs/digits")
    names: dict[str, Any] = {"__name__": "readme"}
    for block in blocks(page):
        if not is_python(block):
            continue
        if re.search(r"^\s*(import|from) (wandb|mlflow)", block.text, re.MULTILINE):
            compile(block.text, str(block), "exec")  # a library that is not ours to install
            continue
        if "import unnoise as un" not in block.text:
            names.setdefault("un", __import__("unnoise"))
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        capsys.readouterr()
        exec(code, names)
        shown = capsys.readouterr().out.split()
        # A line that ends in "# about 1" prints that.
        promised = [float(v) for v in re.findall(r"^print\(.*# about (\S+)$", block.text, re.MULTILINE)]
        assert len(promised) <= len(shown)
        for value, said in zip(re.findall(r"-?\d+\.\d+", " ".join(shown)), promised, strict=False):
            assert float(value) == pytest.approx(said, rel=0.1), str(block)
