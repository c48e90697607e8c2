"""The peak of devices: what no model's FLOPs in a second can pass."""

import re

# Dense bfloat16 TFLOP/s of one device, from its maker's data sheet.
PEAKS = {"a100": 312, "h100": 989, "h200": 989, "v4": 275, "v5e": 197, "v5p": 459, "v6e": 918}
# What JAX calls them (`device_kind`). Cards of these names for slots of PCI Express are slower, and not these.
_KINDS = {
    "a100": r"NVIDIA A100[- ].*",
    "h100": r"NVIDIA H100 80GB HBM3",
    "h200": r"NVIDIA H200",
    "v4": r"TPU v4",
    "v5e": r"TPU v5 ?(e|lite)",
    "v5p": r"TPU v5p?",
    "v6e": r"TPU v6 ?(e|lite)",
}


def peak_flops(device_kind: str) -> float | None:
    """Returns the dense bfloat16 FLOP/s of a device, by what JAX calls its kind; None: it is not known."""
    found = next((name for name, kind in _KINDS.items() if re.fullmatch(kind, device_kind)), None)
    return None if found is None else 1e12 * PEAKS[found]
