import pytest

from mprnet_jax.atomic import replacing, writing
from mprnet_jax.errors import UserError


@pytest.mark.parametrize("opened", [replacing, writing])
def test_a_file_is_whole_or_as_it_was(tmp_path, opened):
    path = tmp_path / "a.txt"

    def write(text, fails):
        with opened(path) as temporary:
            assert temporary.suffix == ".txt"
            temporary.write_text(text)
            if fails:
                raise ValueError("half")

    write("first", fails=False)
    assert path.read_text() == "first"
    with pytest.raises(ValueError, match="half"):
        write("second", fails=True)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_reported_with_its_path(tmp_path):
    with (
        pytest.raises(UserError, match=r"absent/a\.txt: cannot be written \(No such file"),
        writing(tmp_path / "absent/a.txt") as temporary,
    ):
        temporary.write_text("")
