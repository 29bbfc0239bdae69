"""A mistake is one line with its remedy and exit code 2; help is quick; shipped recipes are sound."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.__main__ import COMMANDS
from jobs.cli import RECIPES, load_recipe, parse
from jobs.errors import UsageError
from jobs.extract import ExtractOptions
from pipeline.teachers.spec import spec_of

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.toml"))


def run(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "jobs", *argv], capture_output=True, text=True, cwd=cwd or RECIPES.parents[1]
    )


@pytest.mark.parametrize("argv", [[], ["extract"], ["verify"]])
def test_help_takes_under_a_second(argv: list[str]) -> None:
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        done = run(*argv, "--help")
        best = min(best, time.perf_counter() - start)
        assert done.returncode == 0 and "usage" in done.stdout
    assert best < 1.0


def test_help_names_every_command() -> None:
    assert all(name in run("--help").stdout for name in COMMANDS)


def test_help_of_a_command_imports_no_torch() -> None:
    code = (
        "import sys, contextlib, io; from jobs.__main__ import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    [main([c, '--help']) for c in {list(COMMANDS)!r}]\n"
        "assert not {'torch', 'ray', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=RECIPES.parents[1])


MISTAKES = {
    "unknown command": (["extrat", "mini"], "did you mean extract?"),
    "no recipe": (["extract", "--cache", "c"], "needs a recipe"),
    "no such recipe": (["extract", "minni", "--cache", "c"], "did you mean mini?"),
    "missing option": (["extract", "mini"], "--cache"),
    "unknown option": (
        ["extract", "mini", "--cache", "c", "--views.sise", "64"],
        "did you mean --views.size?",
    ),
    "wrong type": (["extract", "mini", "--cache", "c", "--views.size", "big"], "'big'"),
    "wrong choice": (["extract", "mini", "--cache", "c", "--cache.container", "zip"], "'wds', 'zarr'"),
    "out of range": (["extract", "mini", "--cache", "c", "--views.size", "2"], "views.size"),
    "combination": (
        ["distill", "mini", "--cache", "c", "--out", "o", "--stage1.epochs", "1"],
        "shorten the warm-up",
    ),
    "unknown teacher": (["plan", "mini", "--committee.teachers", "dinov2_b15"], "dinov2_b14"),
    "no source": (["extract", "mini", "--cache", "c", "--source.path", "/nowhere"], "/nowhere"),
    "empty source": (["extract", "mini", "--cache", "c"], "source.path"),
    "no cache": (["verify", "/nowhere"], "/nowhere"),
    "no cache to train on": (["distill", "mini", "--cache", "/nowhere", "--out", "o"], "/nowhere"),
    "no student": (["finetune", "mini", "--student", "/nowhere", "--out", "o"], "/nowhere"),
    "no run": (["report", "/nowhere"], "/nowhere"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name: str, tmp_path: Path) -> None:
    argv, remedy = MISTAKES[name]
    done = run(*argv, cwd=tmp_path)
    said = [line for line in done.stderr.splitlines() if "cutler:" in line]
    assert done.returncode in (1, 2) if name == "no cache" else done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert remedy in done.stderr, done.stderr
    assert len(said) == 1
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[views]\nsise = 3", "views.sise: unknown key, did you mean views.size?"),
        ("[views]\nsize = 'x'", "views.size = 'x'"),
        ("[committee]\nteachers = ['a', 'a']", "twice"),
        ("[dataset]\nname = 'nyud'\ntasks = ['sal']", "does not label"),
        ("size = ", "not TOML"),
        ("name = 'a/b'", "name"),
    ],
)
def test_a_faulty_recipe_is_explained(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_values_are_overridden_on_the_command_line() -> None:
    asked = parse(
        "extract",
        ExtractOptions,
        [
            "mini",
            "--cache",
            "s3://b/c",
            "--views.size",
            "64",
            "--committee.teachers",
            "mini_sam",
            "--dry-run",
        ],
    )
    assert asked.options == ExtractOptions(cache="s3://b/c", dry_run=True)
    assert asked.recipe.source.path == ""
    assert asked.recipe.views.size == 64
    assert asked.recipe.committee.teachers == ("mini_sam",)
    assert asked.recipe.views.count == load_recipe("mini").views.count


def test_paths_are_made_absolute_and_refused_in_a_ray_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["mini", "--cache", "c", "--source.path", "photos/{0..3}.tar"]
    asked = parse("extract", ExtractOptions, argv)
    assert asked.options.cache == str(tmp_path / "c")
    assert asked.recipe.source.path == f"{tmp_path}/photos/{{0..3}}.tar"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UsageError, match="relative, and a Ray job"):
        parse("extract", ExtractOptions, argv)
    assert parse("extract", ExtractOptions, ["mini", "--cache", "/c"]).options.cache == "/c"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_load_and_open_with_how_to_run_them(name: str) -> None:
    recipe = load_recipe(name)
    opening = (RECIPES / f"{name}.toml").read_text().split("\n\n")[0]
    assert recipe.name == name
    assert all(f"# {word}" in opening for word in ("Launch:", "Hardware:", "Expect:"))
    assert all(spec_of(teacher) for teacher in recipe.committee.teachers)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("paper_")])
def test_paper_recipes_keep_the_authors_conventions(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.committee.normalisation == "imagenet"
    assert recipe.committee.padding == "keep"
    assert any(teacher.startswith("timmclip_") for teacher in recipe.committee.teachers)
    assert recipe.dataset.compat == "official"
    assert recipe.stage2.noise == "pixel"
    stage1, stage2 = recipe.stage1, recipe.stage2
    assert (stage1.epochs, stage1.batch_size, stage1.warmup_epochs) == (30, 128, 2)
    assert (stage1.optim.lr, stage1.optim.weight_decay, stage1.optim.clip) == (1e-3, 1e-2, 0)
    assert (stage2.iterations, stage2.batch_size) == (40_000, 4)
    assert (stage2.optim.lr, stage2.optim.weight_decay, stage2.optim.clip) == (2e-5, 1e-6, 10)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_can_be_planned(name: str) -> None:
    done = run("plan", name)
    assert done.returncode == 0, done.stderr
    assert "1,281,167 images" in done.stdout
