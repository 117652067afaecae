"""Tests with their models on another device: `pytest --device cuda`, or `--device twin` without a card."""

import architectures
import torch

#: What is run there: surgery's laws, replay, sweeps, decompositions and exports; all else has nothing of a
#: device, or is made of these. `make gpu` collects them from here.
FILES = (
    "surgery/",
    "replay/",
    "decompose/",
    "export/test_laws.py",
    "experiments/sweep/test_sweep.py",
    "experiments/scoring/test_evaluate.py",
    "experiments/screening/",
    "weights/test_spectrum.py",
    "test_post_norm.py",
)

#: Beginnings of the names of tests that cannot run there, and why.
NOT_THERE = {
    "surgery/test_quantised.py": "its kernels and its packing are the CPU's",
    "surgery/test_offloaded.py": "its models lie on the CPU and on disk",
    "surgery/test_controls.py": "it is of matrices that are built on the CPU",
    "surgery/test_cut.py": "it has no model",
}


def runs(name: str) -> bool:
    """Whether a test, by its name, runs on another device than the CPU."""
    return name.startswith(FILES) and not name.startswith(tuple(NOT_THERE))


def use(device: str) -> None:
    """Has all models of the tests built on a device."""
    if device == "twin":
        import twin_device

        twin_device.register()
    # TF32 rounds the factors of a float32 product to 11 bits, an error of 3e-4, which no law here allows.
    torch.set_float32_matmul_precision("highest")
    architectures.DEVICE = torch.device(device)


if __name__ == "__main__":
    left_out = [f"--ignore=tests/{name}" for name in NOT_THERE if name.endswith(".py")]
    print(*[f"tests/{name}" for name in FILES], *left_out)
