"""An optimiser: steps by the sign of a momentum (Bernstein et al., 2018).

    python -m experiments.train --config=experiments/configs/causal_lm.py:tiny --workdir=runs/signum \
        --plugin=experiments/extensions/signum.py --config.optimizer.name=signum --config.optimizer.learning_rate=3e-4
"""

import jax
import jax.numpy as jnp
import optax

from tformer_jax.config import SHARE, TRAINING, field
from tformer_jax.training.optimizers import OPTIMIZERS, OptimizerConfig


@OPTIMIZERS.register("signum")
class Signum(OptimizerConfig):
    """The sign of an exponential average of gradients; weight decay and the learning rate come after it."""

    unit_updates = True

    momentum: float = field(0.9, SHARE, part=TRAINING, traced=True)

    def make(self) -> optax.GradientTransformation:
        sign = optax.stateless(lambda updates, _: jax.tree.map(jnp.sign, updates))
        return optax.chain(optax.ema(self.momentum, debias=False), sign)
