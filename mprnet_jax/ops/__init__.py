"""Operations of the network, each computed in the way that is fastest on the device."""
