"""What a run's newest checkpoint makes of your input; what that means is the task's.

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

TEXT = define_text("text", None, "A sentence, the beginning of a text, or a text with [MASK] in it.")
INPUT = define_text("input", None, "A UTF-8 file of such texts, one a line.")
IMAGE = define_texts("image", "An image file; may be repeated.")
TOP = define_integer("top", 5, "How many classes or tokens to show, likeliest first.")
MAX_NEW_TOKENS = define_integer("max_new_tokens", None, "How far; default: at most 100.")
GREEDY = define_switch("greedy", "Always the most probable token, rather than a draw.")
TEMPERATURE = define_number("temperature", 0.8, "Of the draw; see decoding.sampling for this and what follows.")
TOP_K = define_integer("top_k", None, "Draw from the k most probable tokens alone.")
TOP_P = define_number("top_p", None, "Draw from the fewest tokens that have this probability together.")
MIN_P = define_number("min_p", None, "Draw from tokens that have this share of the highest probability.")
REPETITION_PENALTY = define_number("repetition_penalty", None, "Above 1: a token that is there is drawn less often.")
SEED = define_integer("seed", 0, "Of the draw.", lowest=0, highest=2**32 - 1)
SLIDE = define_switch("slide", "Of a text that is too long, read the end.")

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
            raise ConfigError(f"--{name} has no meaning for {task.config.name}")
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
            raise DataError(f"{where} has {text[unknown]!r} at {unknown}, a character that this model has never seen")
    yield from zip(texts, places, strict=True)


def _translate(task: tasks.Translation, model: Any) -> None:
    for translation in task.translate(model, _texts(), _progress):
        print(translation.replace("\n", " "))  # one line a sentence, whatever the model writes


def _continue(task: tasks.LanguageModelling, model: Any) -> None:
    """To the terminal as it comes."""
    try:
        how = {"sampler": _sampler(), "key": jax.random.key(SEED.value), "slide": SLIDE.value}
        how["max_new_tokens"] = MAX_NEW_TOKENS.value or min(_NEW_TOKENS, max(1, model.config.max_length // 2))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for text, where in _placed_texts(task):
        pieces = task.continue_text(model, text, **how)
        try:
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
            raise ConfigError(f"--{name} has no meaning with --greedy")
    return decoding.greedy(repetition_penalty=REPETITION_PENALTY.value)


def _fill(task: tasks.MaskedLanguageModelling, model: Any) -> None:
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


def _classify_texts(task: tasks.TextClassification, model: Any) -> None:
    texts = _texts()
    _print_ranked(texts, task.classify(model, texts, _progress))


def _classify_images(task: tasks.ImageClassification, model: Any) -> None:
    if not IMAGE.value:
        raise ConfigError("give --image")
    _print_ranked(IMAGE.value, task.classify(model, [Path(file) for file in IMAGE.value], _progress))


def _print_ranked(inputs: list[str], results: list[list[Any]]) -> None:
    for given, classes in zip(inputs, results, strict=True):
        print("  ".join(f"{c.name} {c.probability:.3f}" for c in classes[: TOP.value]) + f"\t{given}")


# For each task: what to do, and the flags that it understands.
_PREDICTIONS: dict[type, tuple[Callable[[Any, Any], None], tuple[str, ...]]] = {
    tasks.Translation: (_translate, ("text", "input")),
    tasks.LanguageModelling: (_continue, ("text", "input", *_CONTINUE)),
    tasks.MaskedLanguageModelling: (_fill, ("text", "input", "top")),
    tasks.TextClassification: (_classify_texts, ("text", "input", "top")),
    tasks.ImageClassification: (_classify_images, ("image", "top")),
}


if __name__ == "__main__":
    cli.run(main, "workdir")
