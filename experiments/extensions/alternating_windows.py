"""Windows in every layer but each third, whose rotary base is larger (as Gemma 3 has in every sixth): a config file.

python -m experiments.train --config=experiments/extensions/alternating_windows.py:tiny --workdir=runs/windows
"""

from ml_collections import ConfigDict

from experiments.configs import causal_lm

LOCAL = {"attention": {"window": 32}, "positions": {"base": 10_000.0}}
GLOBAL = {"positions": {"base": 1_000_000.0}}


def get_config(preset: str = "tiny") -> ConfigDict:
    """Returns a preset of the causal language model with two layers of three under a window; never run to its end."""
    config = causal_lm.get_config(preset).unlock()
    config.model.update(num_layers=6, pattern=(LOCAL, LOCAL, GLOBAL))
    return config.lock()
