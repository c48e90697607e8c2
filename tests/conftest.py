"""Before anything is imported: eight simulated devices, and every shape annotation checked at run time."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

from jaxtyping import install_import_hook  # noqa: E402

# Every room whose signatures name shapes. Not `config`: beartype cannot check `typing.Self` one method at a time.
_ROOMS = ("functional", "nn", "models", "decoding", "tasks", "training")
install_import_hook([f"tformer_jax.{room}" for room in _ROOMS], "beartype.beartype")
