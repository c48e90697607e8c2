"""Predicts with a run's checkpoint on your input; what a prediction is depends on the task.

python -m experiments.predict --workdir=runs/translation --text="Failed to connect"
python -m experiments.predict --workdir=runs/translation --input=sentences.txt > translations.txt
python -m experiments.predict --workdir=runs/language --text="My fellow citizens," --top_p=0.9 --seed=1
python -m experiments.predict --workdir=runs/masked --text="The [MASK] of the United States"
python -m experiments.predict --workdir=runs/reviews --text="A dull, lifeless mess."
python -m experiments.predict --workdir=runs/vision --image=seven.png --image=nine.png
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from absl import flags
from rich.console import Console

from tformer_jax import decoding, tasks
from tformer_jax.config import ConfigError
from tformer_jax.data.files import DataError, read_lines
from tformer_jax.training.terminal import Terminal

from . import cli, trained
from .parsers import define_integer, define_number, define_switch, define_text, define_texts

TEXT = define_text("text", None, "Input text: a sentence, the beginning of a text, or a text with [MASK] in it.")
INPUT = define_text("input", None, "UTF-8 file of input texts, one per line.")
IMAGE = define_texts("image", "Image file; may be given several times.")
TOP = define_integer("top", 5, "Number of classes or tokens to show, most probable first.")
MAX_NEW_TOKENS = define_integer(
    "max_new_tokens", None, "Number of tokens to generate; by default 100, or half of max_length if that is less."
)
GREEDY = define_switch("greedy", "Take the most probable token at each step instead of sampling.")
TEMPERATURE = define_number("temperature", 0.8, "Sampling temperature.")
TOP_K = define_integer("top_k", None, "Sample from the k most probable tokens only.")
TOP_P = define_number(
    "top_p", None, "Nucleus sampling: sample from the fewest tokens that together have this probability."
)
MIN_P = define_number("min_p", None, "Sample only from tokens with at least this share of the highest probability.")
REPETITION_PENALTY = define_number(
    "repetition_penalty", None, "Above 1, tokens that the text already contains become less probable."
)
SEED = define_integer("seed", 0, "Random seed of sampling.", lowest=0, highest=2**32 - 1)
SLIDE = define_switch("slide", "If a text is too long for the model, read only its end.")

# Not where the predictions go, which may be a file.
_progress = Terminal(Console(stderr=True))

_NEW_TOKENS = 100
_DRAW = ("temperature", "top_k", "top_p", "min_p", "seed")
_CONTINUE = ("max_new_tokens", "greedy", "repetition_penalty", "slide", *_DRAW)


def main() -> None:
    _, _, task, model = trained.load(_progress)
    predict, understood = _PREDICTIONS[type(task)]
    known = {name for _, names in _PREDICTIONS.values() for name in names}
    for name in sorted(known - set(understood)):
        if flags.FLAGS[name].present:
            raise ConfigError(f"--{name} has no meaning for {task.config.name}; leave it out")
    predict(task, model)


def _texts() -> list[str]:
    if (TEXT.value is None) == (INPUT.value is None):
        raise ConfigError("give --text or --input")
    return [TEXT.value] if INPUT.value is None else read_lines(Path(INPUT.value))


def _placed_texts(task: tasks.DocumentTask) -> Iterator[tuple[str, str]]:
    """Each text and what to call it in an error; one that the vocabulary cannot write is refused before any output."""
    texts = _texts()
    places = ["the text"] if INPUT.value is None else [f"line {n} of {INPUT.value}" for n in range(1, len(texts) + 1)]
    for text, where in zip(texts, places, strict=True):
        if (unknown := task.first_unknown(text)) is not None:
            raise DataError(f"{where} has {text[unknown]!r} at {unknown}, a character outside the model's vocabulary")
    yield from zip(texts, places, strict=True)


def _translate(task: tasks.TranslationTask, model: Any) -> None:
    for translation in task.translate(model, _texts(), _progress):
        print(translation.replace("\n", " "))  # one line a sentence, whatever the model writes


def _continue(task: tasks.CausalLMTask, model: Any) -> None:
    """Prints continuations to the terminal as they come."""
    try:
        how = {"sampler": _sampler(), "key": jax.random.key(SEED.value), "slide": SLIDE.value}
        how["max_new_tokens"] = MAX_NEW_TOKENS.value or min(_NEW_TOKENS, max(1, model.config.max_length // 2))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for text, where in _placed_texts(task):
        pieces = task.continue_text(model, text, **how)
        try:
            with _progress.phase("compiling"):
                first = next(pieces)  # what is refused is refused before anything is printed
        except ValueError as error:
            raise ConfigError(str(error).replace("prompt 0", where).replace("slide=True", "--slide")) from None
        for piece in itertools.chain((text, first), pieces):
            print(piece, end="", flush=True)
        print(flush=True)


def _sampler() -> decoding.Sampler:
    if not GREEDY.value:
        filters = {"top_k": TOP_K.value, "top_p": TOP_P.value, "min_p": MIN_P.value}
        penalty = REPETITION_PENALTY.value
        return decoding.sampling(temperature=TEMPERATURE.value, repetition_penalty=penalty, **filters)
    for name in _DRAW:
        if flags.FLAGS[name].present:
            raise ConfigError(f"--{name} has no meaning with --greedy; leave one of them out")
    return decoding.greedy(repetition_penalty=REPETITION_PENALTY.value)


def _fill(task: tasks.MaskedLMTask, model: Any) -> None:
    texts, filled = list(_placed_texts(task)), []
    with _progress.phase("filling gaps", len(texts), "texts") as advance:
        for text, where in texts:
            try:
                filled.append(task.fill(model, text, TOP.value))
            except DataError as error:
                raise DataError(str(error).replace("the text", where)) from None
            advance()
    for gaps in filled:
        for number, guesses in enumerate(gaps, 1):
            # Quoted: a token may be blank, or begin with the blank before its word.
            print(f"{tasks.MASK_TEXT} {number}: " + "  ".join(f"{g.token!r} {g.probability:.3f}" for g in guesses))


def _classify_texts(task: tasks.TextClassificationTask, model: Any) -> None:
    texts = _texts()
    _print_ranked(texts, task.classify(model, texts, _progress))


def _classify_images(task: tasks.ImageClassificationTask, model: Any) -> None:
    if not IMAGE.value:
        raise ConfigError("give --image")
    _print_ranked(IMAGE.value, task.classify(model, [Path(file) for file in IMAGE.value], _progress))


def _print_ranked(inputs: list[str], results: list[list[Any]]) -> None:
    for given, classes in zip(inputs, results, strict=True):
        print("  ".join(f"{c.name} {c.probability:.3f}" for c in classes[: TOP.value]) + f"\t{given}")


# For each task: what to do, and the flags that it understands.
_PREDICTIONS: dict[type, tuple[Callable[[Any, Any], None], tuple[str, ...]]] = {
    tasks.TranslationTask: (_translate, ("text", "input")),
    tasks.CausalLMTask: (_continue, ("text", "input", *_CONTINUE)),
    tasks.MaskedLMTask: (_fill, ("text", "input", "top")),
    tasks.TextClassificationTask: (_classify_texts, ("text", "input", "top")),
    tasks.ImageClassificationTask: (_classify_images, ("image", "top")),
}


if __name__ == "__main__":
    cli.run(main, "workdir")
