"""An environment in which any x86 CPU computes bf16 as one does that has no instructions for it."""

WITHOUT_BF16 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
