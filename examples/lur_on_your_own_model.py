"""LUR's gradient on any torch model: `erase.meta_gradient` over two closures.

    python examples/lur_on_your_own_model.py

A small network learns four classes of points in the plane, then forgets one of them while the
others are retained. The optimizer, the data and the model are yours; `meta_gradient` leaves in
`.grad` the gradient of L_r(θ) + λ L_f(θ − α∇L_r(θ)), eq. 2 of the paper. A few seconds on a CPU.
"""

# %% Four classes of points, one of which will be forgotten
import torch
from torch.nn.functional import cross_entropy

import erase

torch.manual_seed(0)
labels = torch.arange(4).repeat(100)
angles = labels * torch.pi / 2
points = torch.stack([angles.cos(), angles.sin()], 1) + 0.3 * torch.randn(400, 2)
forget = labels == 0
model = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))


def accuracy(chosen: torch.Tensor) -> float:
    """Percentage of the chosen points that the model classifies correctly."""
    return 100 * float((model(points[chosen]).argmax(1) == labels[chosen]).float().mean())


# %% Train it
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(200):
    optimizer.zero_grad()
    cross_entropy(model(points), labels).backward()
    optimizer.step()
print(f"trained: forget set {accuracy(forget):.0f}%, retain set {accuracy(~forget):.0f}%")

# %% Forget one class. Both closures return a 0-dim tensor, the same when they are called twice.
cosines = []
for _ in range(100):
    optimizer.zero_grad()
    stats = erase.meta_gradient(
        dict(model.named_parameters()),
        lambda: cross_entropy(model(points[~forget]), labels[~forget]),
        lambda: -cross_entropy(model(points[forget]), labels[forget]).clamp(max=4.0),
        alpha=0.01,
        forget_weight=0.2,
        mode="exact",
    )
    cosines.append(stats.cosine)
    optimizer.step()
print(f"unlearned: forget set {accuracy(forget):.0f}%, retain set {accuracy(~forget):.0f}%")
print(f"cosine of the two gradients at the first step: {cosines[0]:.2f}")
