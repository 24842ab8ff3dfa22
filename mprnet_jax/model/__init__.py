"""The network, in Flax NNX. Knows no files, no mesh and no other framework."""
