"""Decodes pictures from untrusted senders within a memory limit."""

import tensorflow as tf

# Pillow's own limit, a quarter of a GiB at 3 bytes a pixel: 9,459 x 9,459.
MAX_PIXELS = 89_478_485
_HEADER_BYTES = 32


def decode(picture: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG, PNG, GIF or BMP: string [] -> uint8 [height, width, 3].

    Raises InvalidArgumentError if the header says more than MAX_PIXELS, before it allocates any
    memory: a 300 kB PNG may have 100 million pixels.
    """
    # By hand: TensorFlow's operators that read a size know one format each, and some decode the
    # picture to find it.
    padded = tf.strings.join([tf.strings.substr(picture, 0, _HEADER_BYTES), "\0" * _HEADER_BYTES])
    header = tf.cast(
        tf.io.decode_raw(tf.strings.substr(padded, 0, _HEADER_BYTES), tf.uint8), tf.int64
    )

    def starts(*magic: int) -> tf.Tensor:
        return tf.reduce_all(header[: len(magic)] == tf.constant(magic, tf.int64))

    def number(start: int, *weights: int) -> tf.Tensor:
        return tf.reduce_sum(header[start : start + len(weights)] * tf.constant(weights, tf.int64))

    big = (1 << 24, 1 << 16, 1 << 8, 1)
    little = big[::-1]
    bmp_height = number(22, *little)
    pixels = tf.case(
        [
            (
                starts(0xFF, 0xD8),
                lambda: tf.reduce_prod(tf.cast(tf.image.extract_jpeg_shape(picture)[:2], tf.int64)),
            ),
            (starts(0x89, *b"PNG"), lambda: number(16, *big) * number(20, *big)),
            (starts(*b"GIF8"), lambda: number(6, 1, 256) * number(8, 1, 256)),
            # A top-down bitmap has a negative height.
            (
                starts(*b"BM"),
                lambda: number(18, *little) * tf.minimum(bmp_height, (1 << 32) - bmp_height),
            ),
        ],
        default=lambda: tf.constant(0, tf.int64),  # decode_image rejects these
        exclusive=False,
    )
    small = tf.debugging.Assert(
        pixels <= MAX_PIXELS,
        [f"the picture has more than {MAX_PIXELS} pixels, scale it down; pixels:", pixels],
    )
    with tf.control_dependencies([small]):
        picture = tf.identity(picture)
    return tf.io.decode_image(picture, channels=3, expand_animations=False)
