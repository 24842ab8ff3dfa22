import numpy as np

from mprnet_jax.imageio.sheets import GAP, LINE, make_sheet, shrink


def test_pictures_lie_under_their_captions():
    red = np.zeros((4, 300, 3), np.uint8)
    red[..., 0] = 255
    sheet = make_sheet([[("a", red), ("b", np.zeros((6, 200, 3), np.float32))]])
    assert sheet.shape == (6 + LINE + 2 * GAP, 500 + 3 * GAP, 3)
    top = GAP + LINE
    np.testing.assert_array_equal(sheet[top : top + 4, GAP : GAP + 300], red)
    assert not sheet[top : top + 6, 2 * GAP + 300 : -GAP].any()


def test_captions_of_small_pictures_do_not_overlap():
    small = np.zeros((4, 4, 3), np.uint8)

    def ink(*captions):
        sheet = make_sheet([[(caption, small) for caption in captions]])
        return np.sum(sheet[: GAP + LINE] < 255)

    assert ink("30.40 dB", "target") == ink("30.40 dB") + ink("target")


def test_a_sheet_is_reduced_to_what_a_file_can_hold():
    image = np.arange(7 * 10 * 3, dtype=np.uint8).reshape(7, 10, 3)
    assert shrink(image, 10) is image
    assert shrink(image, 9).shape == (4, 5, 3)
