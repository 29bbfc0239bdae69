"""How a command line becomes a recipe and a command's own options."""

from __future__ import annotations

import contextlib
import io
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError

from jobs.config import Recipe
from jobs.errors import UsageError, explain, suggestion
from jobs.paths import place_options, place_recipe

RECIPES = Path(__file__).parent / "recipes"
Options = TypeVar("Options", bound=BaseModel)


def load_recipe(name: str) -> Recipe:
    """Read a recipe: a TOML file, or the name of one that ships in jobs/recipes.

    Raises:
        UsageError: no such file, not TOML, unknown key, wrong type or impossible combination; one line each.
    """
    path = Path(name)
    if not path.is_file():
        path = RECIPES / (name if name.endswith(".toml") else f"{name}.toml")
    if not path.is_file():
        shipped = sorted(p.stem for p in RECIPES.glob("*.toml"))
        raise UsageError(
            f"recipe {name}: no such file, and no shipped recipe of that name{suggestion(name, shipped)}"
        )
    try:
        document = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} is not TOML: {error}") from error
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise UsageError(f"recipe {path}: {explain(error, Recipe)}") from error


@dataclass(frozen=True)
class Invocation:
    """A parsed command line: the recipe with its overrides, and the command's own options."""

    recipe: Recipe
    options: Any


def parse(command: str, options: type[Options], argv: list[str], *, recipe: bool = True) -> Invocation:
    """Parse `argv` for `command`: [RECIPE] --option value --section.key value.

    Args:
        options: the command's own options, a frozen pydantic model.
        recipe: whether the command takes a recipe as its first argument.

    Raises:
        UsageError: one line with the remedy.
        SystemExit: after --help.
    """
    start = Recipe()
    asks_help = "-h" in argv or "--help" in argv
    if recipe and argv and not argv[0].startswith("-"):
        start, argv = load_recipe(argv[0]), argv[1:]
    elif recipe and not asks_help:
        raise UsageError(
            f"{command} needs a recipe: python -m jobs {command} RECIPE ...; shipped: {shipped_names()}"
        )
    if not recipe:
        return Invocation(start, place_options(_tyro(command, options, argv)))
    parsed = _tyro(command, _pair(options, start), argv)
    return Invocation(place_recipe(parsed.recipe), place_options(parsed.options))


def shipped_names() -> str:
    """The recipes that ship, comma-separated."""
    return ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))


def _pair(options: type[BaseModel], start: Recipe) -> Any:
    """A dataclass of options and recipe whose fields are written without their own prefix."""
    import tyro

    bare = tyro.conf.arg(name="")
    namespace = {"options": Annotated[options, bare], "recipe": Annotated[Recipe, bare]}
    pair = type("Command", (), {"__annotations__": namespace, "recipe": start, "__doc__": options.__doc__})
    return dataclass(frozen=True)(pair)


def _tyro(command: str, target: Any, argv: list[str]) -> Any:
    import tyro

    if "-h" in argv or "--help" in argv:
        return tyro.cli(target, args=argv, prog=f"python -m jobs {command}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(target, args=argv, prog=command)
    except ValidationError as error:
        raise UsageError(f"{command}: {explain(error, Recipe)}") from error
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{command}: {one_line(said.getvalue())}") from None


def one_line(box: str) -> str:
    """The message inside tyro's box, as one line, without drawing characters and help text."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [re.sub(r"^[│╭╰]|[│╮╯]$", "", line.rstrip()).strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not re.fullmatch(r"[-─╌\s]*", line)]
    kept: list[str] = []
    for line in lines:
        if line.startswith(
            ("For full helptext", "Argument helptext", "Available subcommands", "Perhaps you meant")
        ):
            break
        kept.append(re.sub(r"^─+\s*(.*?)\s*─*$", r"\1:", line))
    message = " ".join(kept[1:] if len(kept) > 1 else kept)
    message = _of_pydantic(message)
    near = re.search(r"Perhaps you meant:.*?(--[\w.-]+)", " ".join(lines))
    if near:
        message += f"; did you mean {near.group(1)}?"
    return message.strip() or "the command line could not be read; see --help"


def _of_pydantic(message: str) -> str:
    """A validation error that tyro quotes, as `section.key = value: what is wrong`; else the message."""
    fault = re.search(
        r"^Error parsing ([\w.-]+): \d+ validation errors? for \w+ (?:(?!Value error)(\S+) )?"
        r"(?:Value error, )?(.*?) \[type=\w+, input_value=(.*?), input_type=",
        message,
    )
    if fault is None:
        return message
    section, key, what, value = fault.groups()
    path = ".".join([*section.split(".")[1:], key or ""]).rstrip(".")
    return f"{path} = {value}: {what}" if key else what


def refuse_unknown_command(name: str, known: list[str]) -> None:
    """Raise the one-line error for a command that does not exist."""
    raise UsageError(f"unknown command {name!r}{suggestion(name, known)}; commands: {', '.join(known)}")
