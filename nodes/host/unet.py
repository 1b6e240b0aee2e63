"""What nodes that are made for U-Nets find on a MODEL that is a transformer."""

from ...kit.errors import JodiError


class NoUNet(dict):
    """The settings of the network, for nodes that look for those of a U-Net.

    name: of the model, for the message.
    Raises: JodiError for a setting that it does not have, where the host's own dict would raise a
        KeyError.
    """

    def __init__(self, name: str, *settings, **more):
        super().__init__(*settings, **more)
        self._name = name

    def __missing__(self, key):
        raise JodiError(
            f"a node on the MODEL asks for {key}, a setting of U-Nets; {self._name} is a "
            "transformer, so the node (FreeU is one) cannot work on it. Take it away from the MODEL"
        )
