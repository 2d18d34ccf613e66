"""Peak arithmetic rates of known accelerators, for model FLOPs utilisation (MFU).

Dense (no sparsity) tensor-core rates from the vendor's data sheets, in FLOP/s. MFU as Chowdhery
et al. 2022 (PaLM, appendix B) define it.
"""

from __future__ import annotations

_HALF = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}
_SINGLE = {
    "H200": 67e12,
    "H100": 67e12,
    "A100": 19.5e12,
    "RTX 4090": 82.6e12,
    "V100": 15.7e12,
    "T4": 8.1e12,
}


def peak_flops(hardware: str, precision: str) -> float | None:
    """Return the peak FLOP/s of a device by its name, or None when it is not known."""
    table = _SINGLE if precision == "fp32" else _HALF
    return next((rate for name, rate in table.items() if name in hardware), None)
