from pictures import assert_apart, assert_picture, figures  # noqa: F401
