"""One step of the adversarial task of MMSSL (Eq. 3 to 7), with rows of 64 users over 5000 items that are not formed."""

import torch
import torch.nn.functional as F

from mmssl_fast import InteractionGraph, RelationRows
from mmssl_fast.nn import Discriminator
from mmssl_fast.nn.losses import discriminator_loss, generator_loss

torch.manual_seed(0)
n_users, n_items, width = 200, 5000, 16
pairs = torch.randint(n_items, (n_users, 8))
graph = InteractionGraph.from_pairs(torch.arange(n_users).repeat_interleave(8), pairs.reshape(-1), n_users, n_items)

features_u = torch.randn(n_users, width, requires_grad=True)  # f_u and f_i of one modality, Eq. 2
features_i = torch.randn(n_items, width, requires_grad=True)
batch = torch.arange(64)

generated = RelationRows.generated(features_u[batch], features_i).normalize()  # Eq. 3
real = RelationRows.gumbel(graph, batch, tau=0.2, seed=0) + 100 * RelationRows.generated(
    features_u[batch].detach(), features_i.detach()
)  # Eq. 5, with ζ = 100
real = F.normalize(real, dim=1)

discriminator = Discriminator(n_items, hidden=(128, 64))
optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-4, betas=(0.5, 0.9))

terms = discriminator_loss(discriminator, real, [generated.detach()], alpha=torch.rand(64))  # Eq. 7
sum(terms.values()).backward()
optimizer.step()
print({name: round(value.item(), 4) for name, value in terms.items()})

loss = generator_loss(discriminator, [generated])  # L_G, Eq. 7
loss.backward()
print(f"generator loss {loss.item():.4f}, gradient norm of the item features {features_i.grad.norm():.2e}")

# Check: the first layer of the discriminator has the same output for the dense rows.
dense = generated.dense()
assert dense.shape == (64, n_items)
torch.testing.assert_close(discriminator.first(generated), discriminator.first(dense), atol=1e-5, rtol=1e-4)
