"""Operations of the network in the order that is fast on each kind of device."""
