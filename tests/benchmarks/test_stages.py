from benchmarks import stages
from mprnet_jax.config import ModelConfig


def test_each_row_has_the_costs_of_the_first_stages():
    config = ModelConfig(4, 0, 2, cabs_per_orb=1, stages="orsnet+orsnet")
    first, both = stages.rows("narrow", config, repeats=1)
    assert (first[:2], both[:2]) == (["narrow", "1"], ["narrow", "2"])
    for column in (2, 3, 4):
        costs = [float(row[column].replace(",", "")) for row in (first, both)]
        assert 0 < costs[0] < costs[1], stages.HEAD[column]
    assert both[5] == "100%"
