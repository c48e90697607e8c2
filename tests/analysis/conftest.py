from pictures import assert_picture, figures  # noqa: F401
