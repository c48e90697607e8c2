"""A run in Weights & Biases, beside its own files. The package is an extra, and imported for who asks for it."""

import contextlib
import importlib.util
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tformer_jax.config import ConfigError
from tformer_jax.progress import Progress
from tformer_jax.training.run import Run, RunError, holds, read_json, write_json

_INSTALL = "--wandb needs the package wandb: pip install -e '.[wandb]'"
_NO_KEY = "--wandb needs an API key: run `wandb login`, or set WANDB_API_KEY; or set WANDB_MODE=offline, and `wandb sync` later"


def check_tracking(project: str | None) -> None:
    """Refuses to log in a project without what that needs; None: nobody wants to.

    Raises:
      ConfigError: there is no package, or no key.
    """
    if project is None:
        return
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError(_INSTALL)
    import wandb

    if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
        raise ConfigError(_NO_KEY)


@contextlib.contextmanager
def tracking(run: Run, project: str | None, progress: Progress) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Logs a run in a project, where it stays the same one whenever it goes on; gives what takes its rows.

    Raises:
      ConfigError: W&B refuses it, or cannot be reached.
      RunError: the run is in another project.
    """
    if project is None:
        yield lambda row: None
        return
    import wandb

    number = _identifier(run, project)
    with progress.phase("beginning with Weights & Biases"):
        try:
            there = wandb.init(
                project=project,
                id=number,
                resume="allow",
                name=run.directory.name,
                dir=run.directory,
                config=run.config,
                allow_val_change=True,  # of where it runs
                settings=wandb.Settings(console="off"),  # bars are no text
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"--wandb={project}: {reason}; with WANDB_MODE=offline nothing is sent") from None
    first, code = there.step, 1  # steps before the first are there already

    def tracked(row: Mapping[str, Any]) -> None:
        if row["step"] >= first:
            there.log({name: x for name, x in row.items() if name != "step" and x is not None}, step=row["step"])

    try:
        yield tracked
        code = 0
    finally:
        with progress.phase("ending with Weights & Biases"):
            there.finish(exit_code=code)


def _identifier(run: Run, project: str) -> str:
    """Identity of the run at W&B, which its directory keeps."""
    file = run.directory / "wandb.json"
    if not file.exists():
        write_json(file, {"project": project, "id": secrets.token_hex(4)})
    kept = read_json(file)
    if not holds(kept, project=str, id=str):
        raise RunError(f"{file} is damaged: delete it, and the run begins anew in W&B")
    if kept["project"] != project:
        raise RunError(f"{run.directory} is in the project {kept['project']} of W&B: give --wandb={kept['project']}")
    return kept["id"]
