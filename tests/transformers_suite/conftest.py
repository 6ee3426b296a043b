"""Transformers' own common tests, over the classes of this package."""

# Transformers declares the marks of its tests in a file that it does not distribute.
MARKS = (
    "accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "is_training_test", "slow",
    "torch_compile_test",
)  # fmt: skip


def pytest_configure(config):
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: of Transformers' common tests")
