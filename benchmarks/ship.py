"""Bring a trained run with the package: python benchmarks/ship.py runs/mnist mnist

Of a run that is complete and evaluated (`unnoise evaluate`, with its own sampling settings) it writes
src/unnoise/weights/NAME: the averaged weights rounded to bf16, their own evaluation by the same ruler, and a model card
that is made of the facts of the run and of the two evaluations alone. The folder must not exist.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unnoise import recipes
from unnoise.checkpoint import locate, read
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.evaluation import Evaluation, compared, measure
from unnoise.metrics.figure import shown
from unnoise.model import Model
from unnoise.override import OverrideError, keys, override
from unnoise.recipe import Recipe
from unnoise.runtime import launch
from unnoise.shipped import CARD, WEIGHTS
from unnoise.spec import build, describe
from unnoise.trial import Trial


def main() -> None:
    """Round, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", choices=recipes.names(), metavar="NAME", help="of its recipe, and of the folder")
    parser.add_argument("--device", help="for the evaluation (default: the fastest there is)")
    o = parser.parse_args()
    facts, trained = read(locate(o.run)).facts, Evaluation.read(o.run)
    model, folder = Model.load(o.run), WEIGHTS / o.name
    recipe: Recipe = build(facts["recipe"], lazy=True)
    require_plain(recipe, facts, trained, model)
    model.save(folder, torch.bfloat16)
    data = recipe.data.load()
    found = evaluated(folder, recipe, data, trained, o.device)
    found.save(folder)
    card = "\n".join(lines(o.name, folder, recipe, facts, data, found, trained)) + "\n"
    (folder / CARD).write_text(card, encoding="utf8")
    print(card)


def require_plain(recipe: Recipe, facts: Mapping[str, Any], trained: Evaluation, model: Model) -> None:
    """Refuse what a card could not state; Raises UserError."""
    paths = [f"{k.name}={k.value}" for k in keys(recipe) if isinstance(k.value, str) and "/" in k.value]
    if paths:
        raise UserError(f"the recipe names a place of this machine: {', '.join(paths)}")
    if facts["seen"] != facts["total"]:
        raise UserError(f"the run is not complete: {facts['seen']} of {facts['total']} samples seen")
    if "machines" not in facts:
        raise UserError("the run does not say what it was trained on: it was made by an older version")
    was = {**{k: trained.measured[k] for k in ("seen", "weights")}, "sampling": build(trained.measured["sampling"])}
    now = {"seen": facts["seen"], "weights": facts["average"], "sampling": model.sampling}
    if was != now:
        raise UserError(f"the evaluation is of {was}, the model is {now}: evaluate the run with its own settings")


def evaluated(folder: Path, recipe: Recipe, data: Dataset, like: Evaluation, device: str | None) -> Evaluation:
    """The rounded weights measured as the run was: the same seeds, by the same ruler or it is an error."""
    for assignment in like.measured["set"]:
        recipe = override(recipe, assignment)
    assert recipe.judge is not None
    with launch(device) as run:
        model = Model.load(folder, device=run.device)
        n, repeats, seed = like.protocol["samples"], like.measured["repeats"], like.measured["seed"]
        trial = Trial(n, repeats, seed, say=lambda line: print(line, file=sys.stderr), run=run)
        found = measure(model, recipe.judge, data, trial)
    compared(like, found)
    return Evaluation(found.figures, found.protocol, {**found.measured, "set": like.measured["set"]})


def lines(
    name: str,
    folder: Path,
    recipe: Recipe,
    facts: Mapping[str, Any],
    data: Dataset,
    found: Evaluation,
    trained: Evaluation,
) -> Iterator[str]:
    """The model card, in Markdown."""
    model = Model.load(folder)
    classes = "label" in getattr(model.conditioner, "names", ())
    said = overrides(recipes.load(name)[0], recipe)
    yield f"# {name}"
    yield ""
    yield f"Trained weights that come with unnoise. Their recipe: {recipes.summary(name)}"
    yield ""
    yield "```"
    yield f"unnoise sample {name} -n 100{' --cond label=all' if classes else ''} --out samples.png"
    yield "```"
    yield ""
    yield from table(["", ""], rows(name, folder, recipe, facts, data, model, said))
    yield ""
    yield "## Measured"
    yield ""
    n, seed, repeats = found.protocol["samples"], found.measured["seed"], found.measured["repeats"]
    yield (
        f"Of {n:,} samples{f' in each of {repeats} repeats' if repeats > 1 else ''} from seed {seed:,} on, by "
        f"`{command(['evaluate', name, '-n', n, '--repeats', repeats, '--seed', seed], found.measured['set'])} "
        f"--out FOLDER`; +- is a standard error. Protocol {found.hash}; torch {found.measured['torch']}, "
        f"{found.measured['device']}. In float32 are the weights as they were averaged, from the same seeds "
        f"(torch {trained.measured['torch']}, {trained.measured['device']})."
    )
    yield ""
    figures = [
        [c.name, shown(c.b.samples, c.b.error), shown(c.a.samples, c.a.error), shown(c.b.real, c.b.real_error)]
        for c in compared(trained, found)
    ]
    yield from table(["", "these weights (bf16)", "in float32", "held-out real data"], figures)
    yield ""
    yield "## Use and limits"
    yield ""
    start = "" if said is None else f", and for a start: `{command(['train', name, '--from', name], said)}`"
    yield f"For trying the package out, for comparison{start}."
    raw = model.sample(1, steps=1).raw
    yield f"It draws what its data show, {raw.dtype} of {list(raw.shape[1:])}, and knows nothing else."
    if any(f.name == "read as asked" for f in found.figures):
        yield "Asked for a class it draws another now and then: see `read as asked` and `worst class`."
    yield "What the table does not state was not measured."


def rows(
    name: str,
    folder: Path,
    recipe: Recipe,
    facts: Mapping[str, Any],
    data: Dataset,
    model: Model,
    said: Sequence[str] | None,
) -> Iterator[Sequence[str]]:
    """What it is, what it was made of and with; `said` are the recipe's own `overrides`."""
    options: list[Any] = ["train", name]
    options += ["--samples", facts["total"]] if facts["total"] - recipe.samples not in range(recipe.batch) else []
    options += ["--seed", facts["seed"]] if facts["seed"] else []
    options += [f"--{k}" for k, fact in (("compile", "compiled"), ("capture", "captured")) if facts.get(fact)]
    whole = "`facts.recipe` in [manifest.json](manifest.json)"
    yield "data", f"{facts['about']}; {len(data):,} items to train on, {len(data.held_out['x']):,} held out"
    yield "recipe", whole if said is None else f"`{command(options, said)}`; as JSON: {whole}"
    yield "parameters", f"{sum(p.numel() for m in model.modules if m is not model.weaker for p in m.parameters()):,}"
    yield "weights", f"averaged at a relative width of {facts['average']:g}, rounded to bf16, loaded as float32"
    yield "trained", f"{facts['seen']:,} samples in batches of {recipe.batch}, in {facts['precision']}"
    yield "device time", f"{facts['elapsed']:,.0f} s on {', then '.join(facts['machines'])}"
    yield "versions", f"unnoise {facts['unnoise']}, torch {facts['torch']}"
    s = model.sampling
    auto = "" if s.autoguidance == 1 else f", autoguidance {s.autoguidance} by the weaker network"
    yield "sampled by", f"{s.sampler}, {s.steps} steps on {s.grid}, guidance {s.guidance}{auto}"
    if model.weaker is not None:
        yield "weaker network", f"the same after {model.facts['weaker']:,} samples, averaged alike: for autoguidance"
    yield "licence", "of the weights MIT, as of all of unnoise; of the data see above"
    for file, digest in read_files(folder).items():
        yield file, f"{(folder / file).stat().st_size:,} bytes, sha256 {digest}"


def read_files(folder: Path) -> dict[str, str]:
    """The files of weights, each with its sha256, as the manifest states them."""
    files = json.loads((folder / "manifest.json").read_text(encoding="utf8"))["files"]
    return {k: v for k, v in files.items() if k.endswith(".safetensors")}


def overrides(base: Recipe, recipe: Recipe) -> list[str] | None:
    """What `unnoise train` is to be told with -s so that `base` becomes `recipe`; None where that cannot be said."""
    said: list[str] = []
    entries = list(keys(recipe))
    parents = {k.name.rpartition(".")[0] for k in entries}
    for key in entries:
        now = {k.name: k.value for k in keys(base)}.get(key.name)
        if now == key.value or (key.name in parents and kind(now) is kind(key.value)):
            continue
        said.append(f"{key.name}={key.value}")
        try:
            base = override(base, said[-1])
        except OverrideError:
            return None
    return said if describe(base) == describe(recipe) else None


def kind(value: Any) -> type:
    """The class of a value, or of what it builds."""
    return getattr(value, "cls", type(value))


def command(words: Sequence[Any], assignments: Sequence[str]) -> str:
    """A command line of ours."""
    return shlex.join(["unnoise", *map(str, words), *(w for a in assignments for w in ("-s", a))])


def table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    main()
