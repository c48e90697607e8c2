#!/usr/bin/env bash
# ml-collections 1.1.0 (absl-py 2.5.1), 28 November 2026
#
# Expected: a placeholder, which holds None until it is set, can be set to None again on the command line; or `None`
# is refused, for every type alike. A tuple that cannot be read is refused ("ValueError: If the string is not a well
# formed `tuple`").
# Seen: for a field of a string `--config.init_from=None` gives the text 'None'; for a number it is an error of
# float(). `--config.names=(a,b)`, quotes forgotten, is a tuple of one text, '(a,b)', and `--config.names=` is a tuple
# of one empty text, not an empty tuple.
#
# Why it matters: code that asks `if config.init_from is not None` goes looking for a checkpoint called None; a
# clipping that a preset switches on cannot be switched off; and a list of names to freeze or to evaluate, given as
# one text that matches nothing, freezes and evaluates nothing, without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet ml-collections==1.1.0 absl-py==2.5.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from absl import flags
from ml_collections import config_dict, config_flags


def given(flag):
    """The field after such a flag, or the error of one line."""
    config = config_dict.ConfigDict({"names": ("a", "b")})
    config.init_from = config_dict.placeholder(str)
    config.clip_norm = config_dict.placeholder(float)
    values, sys.argv = flags.FlagValues(), ["train", f"--config.{flag}"]
    config_flags.DEFINE_config_dict("config", config, flag_values=values)
    try:
        values(sys.argv)
    except flags.IllegalFlagValueError as error:
        return str(error)
    return values.config[flag.split("=")[0]]


seen = {flag: given(flag) for flag in
        ("init_from=None", "clip_norm=1", "clip_norm=None", "names=('c','d')", "names=(c,d)", "names=()", "names=")}
for flag, value in seen.items():
    print(f"--config.{flag} gives {value!r}")

assert seen["init_from=None"] == "None"
assert seen["clip_norm=1"] == 1.0 and "could not convert string to float" in seen["clip_norm=None"]
assert seen["names=('c','d')"] == ("c", "d") and seen["names=()"] == ()
assert seen["names=(c,d)"] == ("(c,d)",) and seen["names="] == ("",)
PYTHON
