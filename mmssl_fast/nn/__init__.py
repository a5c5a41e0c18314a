"""The parts of MMSSL as torch modules: encoder, discriminator, losses and training objective.

encoder.py has the model. A module that fuses modalities, like attention.py, is a file of its own in this folder and is
called in `MMSSL.forward`.
"""

from mmssl_fast.nn.attention import ModalityAttention
from mmssl_fast.nn.discriminator import Discriminator
from mmssl_fast.nn.encoded import Encoded
from mmssl_fast.nn.encoder import MMSSL
from mmssl_fast.nn.objective import MMSSLObjective
from mmssl_fast.nn.options import ObjectiveOptions
from mmssl_fast.nn.tiled_adam import TiledAdam

__all__ = ["MMSSL", "Discriminator", "Encoded", "MMSSLObjective", "ModalityAttention", "ObjectiveOptions", "TiledAdam"]
