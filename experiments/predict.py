"""Predicts with a run's checkpoint, or a folder of Hugging Face's, on your input; what a prediction is depends on the task.

python -m experiments.predict --workdir=runs/translation --text="Failed to connect"
python -m experiments.predict --workdir=runs/translation --input=sentences.txt > translations.txt
python -m experiments.predict --workdir=runs/language --text="My fellow citizens," --top_p=0.9 --seed=1
python -m experiments.predict --workdir=runs/masked --text="The [MASK] of the United States"
python -m experiments.predict --workdir=runs/reviews --text="A dull, lifeless mess."
python -m experiments.predict --workdir=runs/vision --image=seven.png --image=nine.png
python -m experiments.predict --workdir=runs/language --interactive
"""

import contextlib
import dataclasses
import sys
import typing
from collections.abc import Sequence

from absl import flags
from rich.console import Console

from tformer_jax.config import Component, ConfigError, hints_of, kind_of
from tformer_jax.data.files import DataError
from tformer_jax.registry import load_plugin
from tformer_jax.tasks import TASKS, Task
from tformer_jax.training.directories import RunError
from tformer_jax.training.run import Run
from tformer_jax.training.terminal import Terminal

from . import cli, trained
from .parsers import define_field, define_switch

INTERACTIVE = define_switch("interactive", "Predict on each line that you type, on a terminal.")

# Not where the predictions go, which may be a file.
_progress = Terminal(Console(stderr=True))

# What the flags of the tasks' predictions are made of, by name: the types of their fields.
_made: dict[str, typing.Any] = {}


def main() -> None:
    if INTERACTIVE.value and not sys.stdin.isatty():
        raise ConfigError("--interactive needs a terminal to type on; give --text, or --input=FILE of lines")
    task, model = trained.load_model(_progress)
    asked = asked_of(type(task))
    if INTERACTIVE.value:
        converse(task, model, asked)
    else:
        answer(task, model, asked)


def answer(task: Task, model: typing.Any, asked: Component) -> None:
    """Prints what is predicted, in pieces as they come."""
    for piece in task.predict(model, asked, _progress):
        print(piece, end="", flush=True)


def converse(task: Task, model: typing.Any, asked: Component) -> None:
    """Answers each line that is typed, until the end of the input; an answer that is interrupted ends alone.

    Raises:
      ConfigError: a line is not enough for the task, or there is an input beside those that are typed.
    """
    import readline  # noqa: F401  # which gives `input` its arrow keys, and takes over the terminal when it is imported

    if task.typed is None:
        raise ConfigError(f"--interactive has no meaning for {task.name}; leave it out")
    if given := [name for name in (task.typed, "input") if getattr(asked, name, None)]:
        raise ConfigError(f"--{given[0]} has no meaning with --interactive; leave one of them out")
    several = typing.get_origin(hints_of(task.Prediction)[task.typed]) is tuple
    with contextlib.suppress(EOFError):
        while True:
            if not (line := input(f"{task.typed}> ").strip()):
                continue
            try:
                answer(task, model, asked.changed(**{task.typed: (line,) if several else line}))
            except (ConfigError, DataError) as error:
                print(f"error: {error}", file=sys.stderr)
            except KeyboardInterrupt:
                print(flush=True)
    print()


def asked_of(task: type[Task]) -> Component:
    """Returns what the flags ask of a task.

    Raises:
      ConfigError: one that the task does not have is given, or their values cannot be.
    """
    given = {name: flags.FLAGS[name].value for name in sorted(_made) if flags.FLAGS[name].present}
    understood = {field.name for field in dataclasses.fields(task.Prediction)}
    for name in given:
        if name not in understood:
            raise ConfigError(f"--{name} has no meaning for {task.name}; leave it out")
    try:
        return task.Prediction(**{name: tuple(x) if isinstance(x, list) else x for name, x in given.items()})
    except ConfigError as error:
        raise ConfigError(f"--{error}") from None


def define_flags(task: type[Task]) -> None:
    """Makes a flag of each field of a task's prediction that no other task has.

    Raises:
      ConfigError: another flag has the name, or another task's field of another type.
    """
    hints = typing.get_type_hints(task.Prediction)
    for field in dataclasses.fields(task.Prediction):
        name, hint = field.name, hints[field.name]
        if name not in flags.FLAGS:
            define_field(name, hint, field.default, kind_of(field))
            _made[name] = hint
        elif _made.get(name) != hint:
            raise ConfigError(f"the prediction of the task {task.name!r} must call {name} otherwise: --{name} is taken")


def of_plugins(arguments: Sequence[str]) -> None:
    """Imports the plugins of the run that a command line names, and makes the flags of their tasks."""
    first = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "", flag_values=first)
    first(arguments, known_only=True)
    with contextlib.suppress(RunError, OSError):  # `main` says it
        for plugin in Run.open(first.workdir).config.get("plugins", ()) if first.workdir else ():
            load_plugin(plugin)
    for task in TASKS.values():
        define_flags(task)


for _task in TASKS.values():
    define_flags(_task)


def run() -> None:
    """Runs the command by its flags."""
    cli.run(main, "workdir", optional=("plugin", "step"), before=of_plugins)


if __name__ == "__main__":
    run()
