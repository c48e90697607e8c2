"""Makes a member of a vectorised sweep an ordinary run: to evaluate, to predict with, or to train on.

python -m experiments.export --workdir=runs/sweep --member=3 --to=runs/member
"""

from tformer_jax.sweeps.directory import SweepDirectory
from tformer_jax.sweeps.export import export_member
from tformer_jax.training.run import changed_plugins

from . import cli
from .parsers import define_integer

MEMBER = define_integer("member", None, "Number of the member, as in results.csv.", lowest=0)


def main() -> None:
    run = export_member(SweepDirectory.open(cli.WORKDIR.value), MEMBER.value, cli.TO.value, cli.terminal)
    cli.say(*changed_plugins(run.directory, run.config))
    cli.say(f"member {MEMBER.value} is in {run.directory}")


def run() -> None:
    """Runs the command by its flags."""
    cli.run(main, "workdir", "member", "to")


if __name__ == "__main__":
    run()
