"""The command line: `python -m jobs COMMAND ...`, also installed as `cutler`."""

from __future__ import annotations

import importlib
import logging
import os
import sys

COMMANDS = {
    "demo": (
        "jobs.demo",
        "the whole of Cutler on this machine: photos -> cache -> student -> multi-task model -> report",
    ),
    "plan": ("jobs.plan", "sizes, GPU-hours and break-even of a recipe, before a byte is written"),
    "weights": ("jobs.weights", "stage teacher weights once into a folder, with digests"),
    "calibrate": ("jobs.calibrate", "calibrate the teachers' codecs, and say what the cache will be like"),
    "extract": ("jobs.extract", "run the frozen teachers over the images, write the cache; rerun to resume"),
    "verify": ("jobs.verify", "check every object of a cache and name what is wrong"),
    "repair": ("jobs.repair", "make exactly what is damaged or missing in a cache again"),
    "recode": ("jobs.recode", "write a cache again with another codec, fidelity, grid or container"),
    "drop": ("jobs.drop", "take one teacher's column out of a cache"),
    "inspect": ("jobs.inspect", "a table per teacher, and pictures of what the cache holds"),
    "distill": ("jobs.distill", "stage 1: train a student from the cache (or from live teachers)"),
    "finetune": ("jobs.finetune", "stage 2: multi-task training with live teachers"),
    "evaluate": ("jobs.evaluate", "score a run: similarity to the teachers, or task metrics and predictions"),
    "bench": ("jobs.bench", "measure the cache on this machine: bits, containers, loader, step, opening"),
    "report": ("jobs.report", "one HTML file with tables and pictures of everything a run left"),
}


def usage() -> str:
    """The page that --help prints."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items())
    return (
        "usage: python -m jobs COMMAND [RECIPE] [--option value] [--section.key value]\n\n"
        f"{rows}\n\n"
        "RECIPE is a TOML file or the name of one in jobs/recipes. Any of its values can be overridden:\n"
        "  python -m jobs extract mini --cache runs/cache --views.size 128\n"
        "Every command runs the same under `ray job submit --working-dir . -- python -m jobs ...`.\n"
        "Help of one command: python -m jobs COMMAND --help. CUTLER_DEBUG=1 shows tracebacks.\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit codes: 0 done, 1 incomplete or failed, 2 bad usage or input, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    # OpenMP threads spin long before they sleep: beside one busy process a step took ten times as long.
    # With a short spin it takes two and a half times as long, and alone a fifth longer than with a long one.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    from jobs.errors import IncompleteError

    try:
        if argv[0] not in COMMANDS:
            from jobs.cli import refuse_unknown_command

            refuse_unknown_command(argv[0], list(COMMANDS))
        from jobs.logs import set_up_logging

        set_up_logging()
        return int(importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:]) or 0)
    except IncompleteError as error:
        return _say(error, 1)
    except (ValueError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        return _say(error, 2)
    except OSError as error:
        return _say(OSError(f"{error}; mend that and rerun the same command to resume"), 1)
    except KeyboardInterrupt:
        return _say(KeyboardInterrupt("interrupted; rerun the same command to resume"), 130)


def _say(error: BaseException, code: int) -> int:
    """One line on standard error, or the traceback when CUTLER_DEBUG is set."""
    if os.environ.get("CUTLER_DEBUG"):
        raise error
    text = " ".join(str(error).split()) or type(error).__name__
    sys.stderr.write(f"cutler: {text}\n")
    return code


def entry() -> None:
    """Run a command as a process, and leave without tearing libraries down.

    Thread pools of native libraries abort now and then while the interpreter ends, which would turn the exit
    code of finished work into 134. All is closed and written by then.
    """
    try:
        code = main()
    except SystemExit as stop:  # --help, or a run that saved its checkpoint after a signal
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    entry()
