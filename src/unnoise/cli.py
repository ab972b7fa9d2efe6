"""The command line: train | resume | join | sample | evaluate | compare | info | list."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from unnoise import commands
from unnoise.errors import UserError, is_out_of_memory
from unnoise.version import __version__

SHIPPED = "; where no such path exists, a model that comes with the package: see `unnoise list`"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. What the user can mend is one line on stderr and exit code 2."""
    try:
        options = _parser().parse_args(arguments)
        _load_libraries()
        options.run_command(options)
    except UserError as e:
        return _fail(str(e), e.exit_code)
    except ValueError as e:
        if not _is_ours(e):
            raise
        return _fail(str(e), 2)
    except FloatingPointError as e:
        return _fail(str(e), 1)
    except (RuntimeError, MemoryError) as e:
        if is_out_of_memory(e) and hasattr(options, "batch"):
            return _fail(f"out of memory with --batch {options.batch}: a smaller one takes less, and a smaller -n", 1)
        if not any(kind.__name__ == "TorchDynamoException" for kind in type(e).__mro__):
            raise
        return _fail(f"torch.compile failed ({str(e).splitlines()[0]}): mend that, or leave --compile out", 1)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as e:
        if e.filename is None:
            raise
        return _fail(str(e), 2)
    return 0


def _load_libraries() -> None:
    """Import torch and what is built on it, which takes seconds; then keep it quiet in the user's terminal.

    Ctrl-C meanwhile ends the process at once: a KeyboardInterrupt would be swallowed by some imports, and nothing has
    begun that could be left half done.
    """
    at_ctrl_c = signal.getsignal(signal.SIGINT)
    ours = at_ctrl_c is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(_fail("stopped", 130)))
    warnings.filterwarnings("ignore", module="torch")
    importlib.import_module("unnoise.public")
    logging.getLogger("torch").setLevel(logging.ERROR)  # torch sets it as it is imported
    if ours:
        signal.signal(signal.SIGINT, at_ctrl_c)


def _fail(message: str, code: int) -> int:
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"unnoise: {' '.join(message.split())}", file=sys.stderr)
    return code


def _is_ours(e: Exception) -> bool:
    """Whether our own code refused a value, so that the message names it and the remedy, or a library did."""
    *_, (frame, _) = traceback.walk_tb(e.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] == "unnoise"


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        """Values such as -inf and -1e-3 are numbers too, where argparse takes them for options."""
        super().__init__(**options)
        self._negative_number_matcher = re.compile(r"-(inf(inity)?|(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)$", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        """One line, as all errors are."""
        self.exit(_fail(f"{message} (see {self.prog} --help)", 2))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="unnoise", description="Train, sample and evaluate diffusion models.")
    parser.add_argument("--version", action="version", version=f"unnoise {__version__}")
    add = parser.add_subparsers(required=True, metavar="COMMAND").add_parser

    train = add("train", help="train a recipe in a new run folder", description=commands.train.__doc__)
    train.add_argument("recipe", metavar="NAME|FILE.py", help="a recipe (see `unnoise list`), or a file with recipe()")
    train.add_argument(
        "--data", metavar="PATH", help="pictures of your own for `images`; another path for other recipes"
    )
    train.add_argument("--size", metavar="N|HxW", help="pixels that pictures are brought to (default: their own)")
    train.add_argument("--mirror", action="store_true", help="train on pictures mirrored left to right too")
    train.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="set a key, repeatable")
    train.add_argument("--seed", type=int, default=0, help="of weights, data order and noise (default 0)")
    train.add_argument("--precision", help="fp32, bf16 or fp16 (default: bf16 on GPUs that have it, else fp32)")
    train.add_argument(
        "--capture", action=argparse.BooleanOptionalAction, default=False, help="replay training steps as a CUDA graph"
    )
    length = train.add_mutually_exclusive_group()
    length.add_argument("--samples", type=int, metavar="N", help="samples to see, in the place of the recipe's")
    length.add_argument("--minutes", type=float, metavar="M", help="train for so long instead")
    train.add_argument("--from", dest="parent", type=Path, metavar="RUN", help="start from the weights of another run")
    train.add_argument("--out", type=Path, metavar="RUN", help="the run folder (default runs/NAME)")
    train.add_argument("--tensorboard", action="store_true", help="also log to RUN/tensorboard (extra tensorboard)")
    train.set_defaults(run_command=commands.train)

    resume = add("resume", help="go on with a run", description=commands.resume.__doc__)
    resume.add_argument("run", type=Path, metavar="RUN")
    resume.add_argument("--samples", type=int, metavar="N", help="train to this number of samples instead")
    resume.add_argument("--tensorboard", action="store_true", help="also log to RUN/tensorboard (extra tensorboard)")
    resume.set_defaults(run_command=commands.resume)

    join = add("join", help="make one system of several runs", description=commands.join.__doc__)
    join.add_argument("out", type=Path, metavar="SYSTEM", help="the folder to make")
    join.add_argument("stages", nargs="+", metavar="NAME=RUN", help="a stage and its run, in the order of sampling")
    join.add_argument(
        "--link",
        action="append",
        metavar="TARGET.CONDITION=SOURCE",
        help="up.low=base: what base makes is low of up; repeatable (default: what each stage cannot do without is "
        "what the stage before makes)",
    )
    join.add_argument("--weights", default=None, metavar="WIDTH|raw", help="which weights, as for sample")
    join.set_defaults(run_command=commands.join)

    sample = add("sample", help="sample a run or a system", description=commands.sample.__doc__)
    sample.add_argument(
        "run", type=Path, metavar="RUN", help=f"a run, a checkpoint, a saved model or a system{SHIPPED}"
    )
    sample.add_argument("-n", type=int, default=16, help="how many (default 16)")
    sample.add_argument("--seed", type=int, default=0, help="of the first; sample i has seed + i (default 0)")
    sample.add_argument(
        "--cond",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="label=3, label=0,1,2 or label=all; low=FILE.npz: its column of this name, or else x; repeatable",
    )
    sample.add_argument(
        "--weights", default=None, metavar="WIDTH|raw", help="EMA of a relative width, or the weights as trained"
    )
    sample.add_argument("--deterministic", action="store_true", help="to the bit the same for any batch, and slower")
    sample.add_argument(
        "--out", type=Path, help="x.png: a grid; x.npz: an archive; else a folder (default RUN/out, or ./out)"
    )
    sample.set_defaults(run_command=commands.sample)

    evaluate = add("evaluate", help="measure a run's samples", description=commands.evaluate.__doc__)
    evaluate.add_argument("run", type=Path, metavar="RUN", help=f"a run, a checkpoint or a saved model{SHIPPED}")
    evaluate.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="set a key of judge or data, repeatable"
    )
    evaluate.add_argument("-n", type=int, help="samples a repeat (default: the judge's own, mostly 1000)")
    evaluate.add_argument("--repeats", type=int, default=1, help="sample seeds, for a standard error (default 1)")
    evaluate.add_argument("--seed", type=int, default=1_000_000, help="of the first sample (default 1000000)")
    evaluate.add_argument("--weights", default=None, metavar="WIDTH|raw", help="which weights, as for sample")
    evaluate.add_argument(
        "--history",
        type=int,
        default=0,
        metavar="K",
        help="also measure K of the averages that the run kept as training went on (default 0)",
    )
    evaluate.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write (default RUN; ./evaluation-N for checkpoint N)"
    )
    evaluate.set_defaults(run_command=commands.evaluate)

    compare = add("compare", help="two evaluations side by side", description=commands.compare.__doc__)
    compare.add_argument("a", type=Path, metavar="A", help=f"a run that was evaluated, or an evaluation.json{SHIPPED}")
    compare.add_argument("b", type=Path, metavar="B")
    compare.set_defaults(run_command=commands.compare)

    info = add("info", help="what recipes, runs, systems and data consist of", description=commands.info.__doc__)
    info.add_argument("what", metavar="NAME|FILE.py|RUN|SYSTEM|DATA", help="DATA: npz; pictures")
    info.set_defaults(run_command=commands.info)

    listing = add("list", help="recipes, samplers, grids, networks, runs", description=commands.list_.__doc__)
    listing.set_defaults(run_command=commands.list_)

    for command in (train, resume):
        command.add_argument(
            "--shard",
            action=argparse.BooleanOptionalAction,
            default=None,
            help="under torchrun: each process holds a part of the networks (default: not; resume: as before)",
        )
        command.add_argument(
            "--workers", type=int, metavar="N", help="processes that read data larger than memory (default: by cores)"
        )
    for command in (sample, evaluate):
        command.add_argument(
            "--batch", type=int, default=256, help="samples at a time (default 256); the result does not depend on it"
        )
        command.add_argument("--sampler", help="see `unnoise list`; with arguments: 'Ancestral(eta=0.5)'")
        command.add_argument("--grid", help="which levels, see `unnoise list`: 'KarrasGrid(rho=6)'")
        command.add_argument("--steps", type=int, help="number of steps")
        command.add_argument(
            "--start", choices=["zero", "mean"], help="around what the noise is that sampling starts from"
        )
        command.add_argument(
            "--guidance", metavar="SCALE", help="classifier-free guidance, 1 is off; hair=2,body=1.5: by attribute"
        )
        command.add_argument(
            "--autoguidance", type=float, metavar="SCALE", help="guidance by a weaker network, 1 is off"
        )
        command.add_argument(
            "--interval",
            type=float,
            nargs=2,
            metavar=("LOW", "HIGH"),
            help="log-SNR between which guidance acts, -inf inf for everywhere (default: the recipe's)",
        )
        command.add_argument(
            "--weaker",
            type=float,
            metavar="SHARE",
            help="of --autoguidance: by the network as it was after this share of its training (default: the recipe's)",
        )
        command.add_argument(
            "--capture", action=argparse.BooleanOptionalAction, default=False, help="replay batches as a CUDA graph"
        )
        command.add_argument(
            "--precision", help="fp32, bf16 or fp16 (default: as it was trained, on GPUs; fp32 on a CPU)"
        )
    for command in (train, sample, evaluate):
        command.add_argument(
            "--compile",
            action=argparse.BooleanOptionalAction,
            default=False,
            help="torch.compile the networks" + ("" if command is train else ", for whole batches of samples"),
        )
    for command in (train, resume, sample, evaluate):
        command.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    for command in (resume, join, sample, evaluate, info):
        command.add_argument("--types", metavar="FILE.py", help="a file with classes of yours that the run is made of")
    return parser


if __name__ == "__main__":
    sys.exit(main())
