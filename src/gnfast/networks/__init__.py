"""Networks as values: layers with their arrays, and where such networks come from."""

from gnfast.networks.network import Linearization, Network, check_network, load, mlp

__all__ = ["Linearization", "Network", "check_network", "load", "mlp"]
