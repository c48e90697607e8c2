#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 (jax 0.10.2), 28 November 2026
#
# Expected: with `cleanup_tmp_directories=True` ("cleans up any existing temporary directories on CheckpointManager
# creation") what crashed runs left is gone when there is a manager, or at the latest when its close() ("Waits for
# outstanding operations to finish") has returned.
# Seen: a thread of its own deletes, and only save() waits for it. wait_until_finished() and close() return while all
# of the 1,500 temporary directories are still there; they go in the seconds after.
#
# Why it matters: what is done with the folder next runs into it: a copy or an upload of it fails because files
# vanish, a listing of its size is of something else, and an evaluation that opens it and ends does its deleting after
# the `with` block that seemed to bound it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 orbax-checkpoint==0.12.8
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import time
from pathlib import Path

import jax.numpy as jnp
import orbax.checkpoint as ocp

folder = Path("checkpoints").absolute()
with ocp.CheckpointManager(folder) as manager:
    manager.save(0, args=ocp.args.StandardSave({"w": jnp.ones(3)}))
for step in range(1, 1_501):
    (folder / f"{step}.orbax-checkpoint-tmp").mkdir()  # what a killed save leaves


def unfinished():
    return sum("tmp" in path.name for path in folder.iterdir())


manager = ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(cleanup_tmp_directories=True))
manager.wait_until_finished()
manager.close()
at_close, start = unfinished(), time.monotonic()
while unfinished() and time.monotonic() - start < 60:
    time.sleep(0.05)
print(f"temporary directories when close() has returned: {at_close:,} of 1,500; "
      f"{unfinished()} after {time.monotonic() - start:.1f} s more")

assert at_close > 0 and unfinished() == 0
PYTHON
