"""Prints initial values that PyTorch draws, for the tests of `crates/methods/src/init.rs`.

    python scripts/torch_init_oracle.py        # any PyTorch 2 on the CPU

Each line: what was drawn after `torch.manual_seed(seed)`, then its first and last values (or all of them, if few).
`then` marks a second draw from the same stream.
"""

import torch


def show(name: str, values: torch.Tensor, few: int = 20) -> None:
    flat = values.flatten().tolist()
    if len(flat) > few:
        sums = values.double()
        flat = flat[:4] + flat[-4:] + [sums.sum().item(), sums.abs().sum().item()]
        name += " (first 4, last 4, sum, sum of absolute values)"
    print(f"{name}:")
    print("    " + ", ".join(f"{v:.9e}" for v in flat))


def main() -> None:
    print("torch", torch.__version__)
    for seed, shape in [(1, (4, 512)), (1, (3,)), (2, (17,)), (3, (20,)), (1, (100,)), (2**32 + 5, (16,))]:
        torch.manual_seed(seed)
        show(f"seed {seed} normal_(std=0.02) {list(shape)}", torch.empty(shape).normal_(std=0.02))
    for seed, shape in [(1, (4, 512)), (2, (17,)), (3, (5,))]:
        torch.manual_seed(seed)
        show(f"seed {seed} uniform_(-0.125, 0.125) {list(shape)}", torch.empty(shape).uniform_(-0.125, 0.125))

    # An odd small draw leaves half a pair behind, which the next small draw takes and a large one does not touch.
    torch.manual_seed(7)
    show("seed 7 normal_(std=0.02) [3]", torch.empty(3).normal_(std=0.02))
    show("then normal_(std=0.02) [2]", torch.empty(2).normal_(std=0.02))
    torch.manual_seed(7)
    show("seed 7 normal_(std=0.02) [1]", torch.empty(1).normal_(std=0.02))
    show("then normal_(std=0.02) [16]", torch.empty(16).normal_(std=0.02))
    show("then uniform_(-0.5, 0.5) [2]", torch.empty(2).uniform_(-0.5, 0.5))
    show("then normal_(std=0.02) [1]", torch.empty(1).normal_(std=0.02))

    torch.manual_seed(4)
    linear = torch.nn.Linear(32, 3)
    show("seed 4 Linear(32, 3).weight", linear.weight.detach())
    show("seed 4 Linear(32, 3).bias", linear.bias.detach())


if __name__ == "__main__":
    main()
