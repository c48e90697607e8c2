"""The flag that commands share which read a run: which of its checkpoints."""

from .parsers import define_integer

STEP = define_integer("step", None, "Step of the checkpoint to use; by default the newest.")
