"""Before anything is imported: eight simulated devices, and every shape annotation checked at run time."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("tformer_jax", "beartype.beartype")
