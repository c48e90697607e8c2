"""Translates with a run's newest checkpoint: one text, or a file of one sentence a line.

python -m experiments.predict --workdir=runs/t1 --text="Failed to connect"
python -m experiments.predict --workdir=runs/t1 --input=sentences.txt > translations.txt
"""

from pathlib import Path

from absl import flags

from tformer_jax.config import ConfigError
from tformer_jax.data.files import read_lines
from tformer_jax.training.experiment import load_run
from tformer_jax.training.run import Run

from . import cli

TEXT = flags.DEFINE_string("text", None, "A sentence to translate.")
INPUT = flags.DEFINE_string("input", None, "A UTF-8 file of sentences, one a line.")


def main() -> None:
    if (TEXT.value is None) == (INPUT.value is None):
        raise ConfigError("give --text or --input")
    texts = [TEXT.value] if INPUT.value is None else read_lines(Path(INPUT.value))
    _, task, model = load_run(Run.open(cli.WORKDIR.value))
    for translation in task.translate(model, texts):
        print(translation.replace("\n", " "))  # one line a sentence, whatever the model writes


if __name__ == "__main__":
    cli.run(main)
