"""MMSSL's parts as torch modules: encoder, discriminator, losses, objective."""

from mmssl_fast.nn.attention import ModalityAttention
from mmssl_fast.nn.discriminator import Discriminator
from mmssl_fast.nn.encoder import MMSSL, Encoded
from mmssl_fast.nn.objective import MMSSLObjective
from mmssl_fast.nn.options import ObjectiveOptions
from mmssl_fast.nn.tiled_adam import TiledAdam

__all__ = ["MMSSL", "Discriminator", "Encoded", "MMSSLObjective", "ModalityAttention", "ObjectiveOptions", "TiledAdam"]
